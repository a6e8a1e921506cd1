//! Configuration: read once into a raw form, checked once into the only form the engine sees.
