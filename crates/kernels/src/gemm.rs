//! Dense matrices: products, cut into tiles for all threads, and transposes.

mod matrix;
mod product;
mod transpose;

pub(crate) use matrix::Matrix;
pub(crate) use product::{matmul, matmul_rows, part, product, product_then, product_to, tiles};
pub(crate) use transpose::{transpose, transpose_to, transposed};
