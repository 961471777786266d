//! Data for Taper: files or tensors in, batches out.
//!
//! | data | read by | in memory | a batch |
//! |---|---|---|---|
//! | sets known by name ([`Choice`]): MNIST, Fashion-MNIST, KMNIST, EMNIST, the bundled `digits`; IDX files of one's own | [`load`] | [`Dataset`] of two [`ImageSet`]s | [`Batch`] |
//! | PNG and JPEG files in a directory per class | `load_images`, with the feature `images` | the same | the same |
//! | tensors of any type and shape | [`Table::new`] | [`Table`] | tensors, as the table has them |
//! | anything else | one's own type | [`Samples`] | one's own type |
//!
//! Images are kept in memory as `u8`. Each batch is gathered and converted to scaled `f32` when the iterator reaches it.
//!
//! ```
//! use taper_data::{Batch, Choice, Options, Scale, load};
//! use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
//!
//! # fn main() -> taper_data::Result<()> {
//! let data = load(Choice::Digits, &Options::default(), &mut |_| {})?.scaled(Scale::Unit);
//! assert_eq!((data.name.as_str(), data.train.len(), data.test.len()), ("digits", 1437, 360));
//!
//! let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
//! let batches = data.train.shuffled(&mut rng, 128);
//! assert_eq!(batches.len(), 12);
//! let mut seen = 0;
//! for batch in batches {
//!     let Batch { images, labels } = batch?;
//!     let (n, c, h, w) = images.dims4()?;
//!     assert_eq!((c, h, w), (1, 8, 8));
//!     assert_eq!(labels.dims1()?, n);
//!     seen += n;
//! }
//! assert_eq!(seen, 1437, "the last batch is smaller, not lost");
//! # Ok(())
//! # }
//! ```
//!
//! # What is read, and from where
//!
//! [`load`] lists the places it searches. This crate reads no environment variables, except that the HTTP client uses
//! the proxy in `HTTPS_PROXY` or `ALL_PROXY`.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod batches;
mod bytes;
mod choice;
mod dataset;
mod digits;
mod download;
mod error;
mod files;
mod idx;
#[cfg(feature = "images")]
mod image_folders;
mod image_set;
mod load;
mod locate;
mod scale;
mod table;

#[cfg(feature = "images")]
pub use image_folders::{Division, load_image, load_images};
pub use {
    batches::{Batch, Batches, Samples, Shard},
    choice::Choice,
    dataset::Dataset,
    digits::digits,
    download::DownloadProgress,
    error::{Error, Result},
    files::{Checksum, FileSet, RemoteFile},
    idx::{Images, read_images, read_labels},
    image_set::ImageSet,
    load::{Options, load, load_files},
    scale::Scale,
    table::{Columns, Table},
};
