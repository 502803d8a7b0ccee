//! The examples are in the folder above.
