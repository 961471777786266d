use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use taper_hooks::bits;

use crate::step::Metrics;
use crate::{Error, Result};

/// The result of a training step for some shards: sums over their samples.
#[derive(Debug)]
pub(super) struct Part {
    pub head: Head,
    /// Concatenated: the gradients of all trained parameters, then the change of each buffer (running statistics), all
    /// multiplied by the number of samples.
    pub values: Vec<f32>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    /// The sum over samples of the loss.
    #[serde(with = "bits")]
    pub loss: f64,
    pub samples: u64,
    pub metrics: Metrics,
    /// The first shard with a NaN or infinite loss, metric or activation.
    pub lost: Option<usize>,
    /// For each trained parameter, whether a gradient reached it.
    pub reached: Vec<bool>,
}

/// Values that a thread adds or converts at a time.
const CHUNK: usize = 1 << 14;

impl Part {
    /// The sum of the shards on the left and of those on the right.
    pub fn join(mut self, right: Self) -> Result<Self> {
        let (own, of) = (&mut self.head, right.head);
        if self.values.len() != right.values.len() || own.reached.len() != of.reached.len() {
            return Err(Error::Config(format!(
                "expected the same parameters in all shards and processes, found {} and {} values",
                self.values.len(),
                right.values.len()
            )));
        }
        own.loss += of.loss;
        own.samples += of.samples;
        own.metrics.add(&of.metrics, false);
        own.lost = own.lost.or(of.lost);
        own.reached.iter_mut().zip(of.reached).for_each(|(own, of)| *own |= of);
        let chunks = self.values.par_chunks_mut(CHUNK).zip(right.values.par_chunks(CHUNK));
        chunks.for_each(|(own, of)| own.iter_mut().zip(of).for_each(|(own, of)| *own += of));
        Ok(self)
    }

    /// The length of the head in JSON, the head, and the values, in little-endian order.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let head = serde_json::to_vec(&self.head).map_err(Error::other)?;
        let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
        bytes.extend(&head);
        let start = bytes.len();
        bytes.resize(start + 4 * self.values.len(), 0);
        let chunks = bytes[start..].par_chunks_mut(4 * CHUNK).zip(self.values.par_chunks(CHUNK));
        chunks.for_each(|(bytes, values)| {
            let places = bytes.as_chunks_mut::<4>().0;
            places.iter_mut().zip(values).for_each(|(place, value)| *place = value.to_le_bytes());
        });
        Ok(bytes)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let cut = || Error::Config("expected the sums of another process, found fewer bytes".into());
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
        let (head, values) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).ok_or_else(cut)?;
        let head = serde_json::from_slice(head).map_err(Error::other)?;
        let values = values.as_chunks::<4>().0.par_iter().with_min_len(CHUNK);
        Ok(Self { head, values: values.map(|bytes| f32::from_le_bytes(*bytes)).collect() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_part_comes_back_from_bytes_with_every_bit() {
        let values = vec![1.5, -0.0, f32::NAN, f32::INFINITY, 1e-42];
        let head = Head {
            loss: f64::NAN,
            samples: 7,
            metrics: Metrics::default(),
            lost: Some(3),
            reached: vec![true, false],
        };
        let part = Part { head, values };
        let again = Part::from_bytes(&part.to_bytes().unwrap()).unwrap();
        let bits = |part: &Part| part.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(&part));
        assert_eq!(again.head.loss.to_bits(), part.head.loss.to_bits());
        assert_eq!(
            (again.head.samples, again.head.lost, again.head.reached),
            (7, Some(3), vec![true, false])
        );
        assert!(Part::from_bytes(&[1, 2, 3]).is_err());
    }
}
