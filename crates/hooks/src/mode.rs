use serde::{Deserialize, Serialize};

/// The purpose of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Training: dropout is on, gradients are wanted.
    Train,
    /// Evaluation: nothing is random, and no graph is kept.
    Eval,
}
