"""Training of models on labelled pictures: sampling, augmentation, losses, loop, fine-tuning."""
