use serde::{Deserialize, Serialize};

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Training: dropout is on, gradients are wanted.
    Train,
    /// Evaluation: nothing random happens, and no graph is kept.
    Eval,
}
