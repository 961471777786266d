//! For serde's `with`: floats as the integers of their bits, so that a state is restored exactly.
//!
//! JSON has no NaN and no infinity, but a sum can be NaN, and the best loss before the first epoch is infinite.
//!
//! ```
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Best {
//!     #[serde(with = "taper_hooks::bits")]
//!     loss: f64,
//! }
//!
//! let text = serde_json::to_string(&Best { loss: f64::INFINITY })?;
//! assert_eq!(text, r#"{"loss":9218868437227405312}"#);
//! assert_eq!(serde_json::from_str::<Best>(&text)?.loss, f64::INFINITY);
//! # Ok::<(), serde_json::Error>(())
//! ```

use serde::{Deserialize, Deserializer, Serializer};

/// Writes the bits of an `f64`.
///
/// # Errors
/// Errors of the serialiser.
pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(x.to_bits())
}

/// Reads an `f64` from its bits.
///
/// # Errors
/// When the value is not a `u64`.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    u64::deserialize(from).map(f64::from_bits)
}

/// The same for `f32`.
pub(crate) mod single {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(x: &f32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(x.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
        u32::deserialize(from).map(f32::from_bits)
    }
}
