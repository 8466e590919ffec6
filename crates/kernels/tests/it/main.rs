//! The conformance of every instruction set with the scalar reference, bit for bit, and of the reference with f64.

mod attention;
mod matmul;
mod numbers;
mod quantize;
mod vector;
mod vectors;
