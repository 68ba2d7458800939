<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology|Labeling|Fields|Forms">
  <fieldConfiguration>
    <field name="status">
      <editWidget type="ValueMap">
        <config>
          <Option type="Map">
            <Option type="List" name="map">
              <Option type="Map"><Option type="QString" name="open: not looked at" value="open"/></Option>
              <Option type="Map"><Option type="QString" name="accepted: the result is right" value="accepted"/></Option>
              <Option type="Map"><Option type="QString" name="rejected: there is no flood here" value="rejected"/></Option>
              <Option type="Map"><Option type="QString" name="redrawn: the layer edits is right" value="redrawn"/></Option>
            </Option>
          </Option>
        </config>
      </editWidget>
    </field>
    <field name="note">
      <editWidget type="TextEdit"><config><Option type="Map"><Option type="bool" name="IsMultiline" value="true"/></Option></config></editWidget>
    </field>
  </fieldConfiguration>
  <renderer-v2 type="categorizedSymbol" attr="status" forceraster="0" symbollevels="0" enableorderby="0">
    <categories>
      <category value="open" symbol="0" label="open" render="true"/>
      <category value="accepted" symbol="1" label="accepted" render="true"/>
      <category value="rejected" symbol="2" label="rejected" render="true"/>
      <category value="redrawn" symbol="3" label="redrawn" render="true"/>
    </categories>
    <symbols>
      <symbol type="fill" name="0" alpha="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map"><Option type="QString" name="color" value="255,255,255,0"/><Option type="QString" name="style" value="no"/><Option type="QString" name="outline_color" value="255,140,0,255"/><Option type="QString" name="outline_style" value="solid"/><Option type="QString" name="outline_width" value="0.8"/><Option type="QString" name="outline_width_unit" value="MM"/></Option></layer></symbol>
      <symbol type="fill" name="1" alpha="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map"><Option type="QString" name="color" value="255,255,255,0"/><Option type="QString" name="style" value="no"/><Option type="QString" name="outline_color" value="40,150,60,255"/><Option type="QString" name="outline_style" value="solid"/><Option type="QString" name="outline_width" value="0.6"/><Option type="QString" name="outline_width_unit" value="MM"/></Option></layer></symbol>
      <symbol type="fill" name="2" alpha="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map"><Option type="QString" name="color" value="255,255,255,0"/><Option type="QString" name="style" value="no"/><Option type="QString" name="outline_color" value="200,40,40,255"/><Option type="QString" name="outline_style" value="solid"/><Option type="QString" name="outline_width" value="0.6"/><Option type="QString" name="outline_width_unit" value="MM"/></Option></layer></symbol>
      <symbol type="fill" name="3" alpha="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map"><Option type="QString" name="color" value="255,255,255,0"/><Option type="QString" name="style" value="no"/><Option type="QString" name="outline_color" value="120,60,180,255"/><Option type="QString" name="outline_style" value="solid"/><Option type="QString" name="outline_width" value="0.6"/><Option type="QString" name="outline_width_unit" value="MM"/></Option></layer></symbol>
    </symbols>
  </renderer-v2>
  <labeling type="simple">
    <settings>
      <text-style fieldName="rank" fontSize="10" textColor="180,90,0,255" fontWeight="75">
        <text-buffer bufferDraw="1" bufferSize="1" bufferColor="255,255,255,255"/>
      </text-style>
      <placement placement="1"/>
    </settings>
  </labeling>
  <layerGeometryType>2</layerGeometryType>
</qgis>
