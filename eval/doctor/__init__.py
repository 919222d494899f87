"""Is everything there and in order: the machine, the data sets, and Detectron2's installation."""
