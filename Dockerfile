# floodmap on CPUs. Build: docker build -t floodmap .
# Run: docker run --rm --user "$(id -u):$(id -g)" -v "$PWD":/data floodmap segment scene.tif
FROM python:3.12-slim

# torch without CUDA; the model that ships is inside the package, so no network is needed at run time.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY floodmap floodmap
COPY cli cli
RUN pip install --no-cache-dir "torch>=2.3" "torchvision>=0.18" --index-url "${TORCH_INDEX}" \
    && pip install --no-cache-dir . \
    && rm -rf /src/*

ENV FLOODMAP_CACHE=/tmp/floodmap
WORKDIR /data
ENTRYPOINT ["floodmap"]
CMD ["--help"]
