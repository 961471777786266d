//! The operations, each with its forward and backward pass.

pub(crate) mod activate;
pub(crate) mod add;
pub(crate) mod attention;
pub(crate) mod batch_norm;
pub(crate) mod conv2d;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod grouped_linear;
pub(crate) mod linear;
pub(crate) mod loss;
pub(crate) mod mean;
pub(crate) mod norm;
pub(crate) mod pool2d;
pub(crate) mod softmax;
