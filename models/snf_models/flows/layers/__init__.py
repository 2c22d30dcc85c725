"""Layer types: descriptions of layers as data, one for each bijection that can be a step of a flow."""
