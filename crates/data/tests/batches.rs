//! Batches of the bundled digits: every sample once, scaled exactly.

#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device};
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use taper_data::{Dataset, ImageSet, Scale, digits};

/// Four images of one pixel each with the labels 0, 1, 0, 1.
fn four() -> ImageSet {
    ImageSet::new("four", (1, 1, 1), 255, 2, vec![0, 51, 102, 255], vec![0, 1, 0, 1]).unwrap()
}

/// All values and labels of an iterator, and the batch sizes.
fn drain(
    batches: impl Iterator<Item = taper_data::Result<taper_data::Batch>>,
) -> (Vec<f32>, Vec<u32>, Vec<usize>) {
    let (mut xs, mut ys, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for batch in batches {
        let batch = batch.unwrap();
        xs.extend(batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        ys.extend(batch.labels.to_vec1::<u32>().unwrap());
        sizes.push(batch.labels.dims1().unwrap());
    }
    (xs, ys, sizes)
}

/// What `zcat datasets/digits/digits.csv.gz` says when Python adds it up, per split: pixels summed, zeros, label counts.
#[test]
fn digits_are_the_published_ones() {
    let data = digits().unwrap();
    let facts = |split: &ImageSet| {
        let pixels = split.pixels();
        let sum: u32 = pixels.iter().map(|&pixel| u32::from(pixel)).sum();
        (split.len(), sum, pixels.iter().filter(|&&pixel| pixel == 0).count(), split.label_counts())
    };
    let train = vec![143, 146, 142, 146, 144, 145, 144, 143, 141, 143];
    assert_eq!(facts(&data.train), (1437, 449_372, 44_861, train));
    assert_eq!(facts(&data.test), (360, 112_346, 11_411, vec![35, 36, 35, 37, 37, 37, 37, 36, 33, 37]));
    assert_eq!(data.train.labels()[..6], [0, 1, 2, 3, 4, 5]);
    assert_eq!(data.test.labels()[..6], [2, 3, 4, 5, 6, 7]);
    assert_eq!(data.train.pixels()[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
    assert_eq!((data.classes, data.train.shape(), data.train.white()), (10, (1, 8, 8), 16));
    assert!((data.mean - 0.30538611256089077).abs() < 1e-15);
    assert!((data.std - 0.3755071088307581).abs() < 1e-15);
}

#[test]
fn images_are_f32_and_labels_u32_in_the_shapes_promised() {
    let batch = digits().unwrap().on(&Device::Cpu).test.batches(50).next().unwrap().unwrap();
    assert_eq!((batch.images.dims(), batch.images.dtype()), (&[50, 1, 8, 8][..], DType::F32));
    assert_eq!((batch.labels.dims(), batch.labels.dtype()), (&[50][..], DType::U32));
}

#[test]
fn batches_that_are_skipped_are_those_that_would_have_come() {
    let all: Vec<usize> = drain(four().batches(3)).2;
    for n in 0..4 {
        let rest = four().batches(3).skip(n);
        assert_eq!(rest.len(), all.len().saturating_sub(n));
        assert_eq!(drain(rest).2, all[n.min(all.len())..]);
    }
    let shuffled = || digits().unwrap().train.shuffled(&mut Xoshiro256PlusPlus::seed_from_u64(3), 100);
    assert_eq!(drain(shuffled().skip(5)).1, drain(shuffled()).1[500..]);
    assert!(four().batches(3).nth(usize::MAX).is_none());
}

#[test]
fn the_checksum_is_of_samples_and_labels_and_of_nothing_else() {
    let data = digits().unwrap();
    let sum = data.checksum();
    assert_eq!(sum.len(), 64);
    assert_eq!(digits().unwrap().scaled(Scale::Unit).checksum(), sum);
    let with = |train: ImageSet, test: ImageSet| Dataset::new("other", train, test).unwrap().checksum();
    assert_eq!(with(data.train.clone(), data.test.clone()), sum);
    assert_ne!(with(data.train.clone().take(1436), data.test.clone()), sum);
    assert_ne!(with(data.test.clone(), data.train.clone()), sum);
    let mut pixels = data.train.pixels().to_vec();
    pixels[77] ^= 1;
    let other = ImageSet::new("one", (1, 8, 8), 16, 10, pixels, data.train.labels().to_vec()).unwrap();
    assert_ne!(with(other, data.test), sum);
}

#[test]
fn the_last_partial_batch_is_kept() {
    let (xs, ys, sizes) = drain(four().batches(3));
    assert_eq!(sizes, [3, 1]);
    assert_eq!(xs, [0.0, 0.2, 0.4, 1.0]);
    assert_eq!(ys, [0, 1, 0, 1]);
}

#[test]
fn the_number_of_batches_and_samples_to_come_is_known() {
    let mut batches = four().batches(3);
    assert_eq!((batches.len(), batches.samples()), (2, 4));
    batches.next().unwrap().unwrap();
    assert_eq!((batches.len(), batches.samples()), (1, 1));
    batches.next().unwrap().unwrap();
    assert_eq!((batches.len(), batches.samples()), (0, 0));
    assert!(batches.next().is_none());
    assert_eq!(four().batches(usize::MAX).len(), 1);
}

#[test]
fn a_batch_size_of_zero_is_one_error_and_no_panic() {
    for mut batches in [four().batches(0), four().shuffled(&mut Xoshiro256PlusPlus::seed_from_u64(1), 0)] {
        assert_eq!(batches.len(), 1);
        let error = batches.next().unwrap().unwrap_err().to_string();
        assert!(error.starts_with("expected a batch size of at least 1, found 0: "), "{error}");
        assert!(batches.next().is_none());
    }
    assert_eq!(four().take(0).batches(0).count(), 0);
}

#[test]
fn unit_is_pixel_over_white_to_the_bit() {
    let data = digits().unwrap().scaled(Scale::Unit);
    let (xs, _, _) = drain(data.train.batches(100));
    assert!(xs.iter().zip(data.train.pixels()).all(|(&x, &pixel)| x == f32::from(pixel) / 16.0));
}

#[test]
fn standard_is_the_default_and_rounds_once() {
    let data = digits().unwrap();
    let (xs, _, _) = drain(data.test.batches(100));
    let exact = |pixel: u8| ((f64::from(pixel) / 16.0 - data.mean) / data.std) as f32;
    assert!(xs.iter().zip(data.test.pixels()).all(|(&x, &pixel)| x == exact(pixel)));

    let (xs, _, _) = drain(data.train.batches(100));
    let mean = xs.iter().map(|&x| f64::from(x)).sum::<f64>() / xs.len() as f64;
    let squares = xs.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / xs.len() as f64;
    assert!(mean.abs() < 1e-6 && (squares - 1.0).abs() < 1e-6, "{mean} {squares}");
}

#[test]
fn a_shuffle_is_a_permutation_with_labels_and_images_together() {
    let n = 200;
    let split =
        ImageSet::new("n", (1, 1, 1), 255, 200, (0..n).collect(), (0..u32::from(n)).collect()).unwrap();
    let (xs, ys, _) = drain(split.shuffled(&mut Xoshiro256PlusPlus::seed_from_u64(1), 7));
    assert!(xs.iter().zip(&ys).all(|(&x, &y)| x == y as f32 / 255.0));
    assert_ne!(ys, (0..200).collect::<Vec<u32>>());
    let mut sorted = ys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..200).collect::<Vec<u32>>());
}

#[test]
fn the_same_seed_gives_the_same_order_and_the_next_epoch_another() {
    let data = digits().unwrap();
    let orders = |seed| {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        [drain(data.train.shuffled(&mut rng, 64)).1, drain(data.train.shuffled(&mut rng, 64)).1]
    };
    assert_eq!(orders(1), orders(1));
    assert_ne!(orders(1), orders(2));
    assert_ne!(orders(1)[0], orders(1)[1]);
}

#[test]
fn a_limit_takes_the_first_and_no_more_than_there_are() {
    assert_eq!(four().take(2).labels(), [0, 1]);
    assert_eq!(four().take(9).len(), 4);
    assert!(four().take(0).is_empty());
    assert_eq!(drain(four().take(3).batches(2)).2, [2, 1]);
}

#[test]
fn the_validation_split_is_the_last_rows() {
    let (training, validation) = four().split_last(1).unwrap();
    assert_eq!((training.pixels(), validation.pixels()), (&[0, 51, 102][..], &[255][..]));
    assert_eq!((training.labels(), validation.labels()), (&[0, 1, 0][..], &[1][..]));
    assert_eq!(drain(validation.batches(5)).0, [1.0]);
    assert!(four().split_last(0).unwrap().1.is_empty());
    let error = four().split_last(4).unwrap_err().to_string();
    assert!(
        error.starts_with("expected a validation split below the 4 samples of four, found 4: "),
        "{error}"
    );
}

#[test]
fn a_limit_does_not_change_the_scale() {
    let mut data = digits().unwrap();
    let whole = drain(data.train.batches(10)).0;
    data.train = data.train.take(10);
    assert_eq!(drain(data.scaled(Scale::Standard).train.batches(10)).0, whole[..640]);
}

#[test]
fn invalid_losses_are_refused() {
    four().check(4).unwrap();
    let error = |split: ImageSet, batch_size| split.check(batch_size).unwrap_err().to_string();
    assert_eq!(
        error(four(), 5),
        "expected at least one batch of 5 samples in four, found 4 samples: use a smaller batch size or more samples"
    );
    assert_eq!(
        error(four().take(1), 1),
        "expected samples of at least 2 classes in four, found 1 among 1 samples: use more samples or another data set"
    );
    assert!(error(four(), 0).starts_with("expected a batch size of at least 1, found 0"));
}

#[test]
fn a_split_whose_parts_do_not_fit_is_refused() {
    let new = |shape, white, pixels: &[u8], labels: &[u32]| {
        ImageSet::new("s", shape, white, 2, pixels.into(), labels.into())
    };
    assert!(new((1, 1, 2), 255, &[1, 2, 3], &[0]).is_err());
    assert!(new((0, 1, 1), 255, &[], &[0]).is_err());
    assert!(new((1, 1, 1), 0, &[0], &[0]).is_err());
    assert!(new((1, 1, 1), 16, &[17], &[0]).is_err());
    assert!(new((1, 1, 1), 16, &[16], &[2]).is_err());
    assert!(new((usize::MAX, 2, 1), 16, &[], &[]).is_err());
}

#[test]
fn a_set_of_unlike_or_empty_splits_is_refused() {
    let wide = ImageSet::new("wide", (1, 1, 2), 255, 2, vec![0; 4], vec![0, 1]).unwrap();
    assert!(Dataset::new("set", four(), wide).is_err());
    assert!(Dataset::new("set", four(), four().take(0)).is_err());
    assert!(Dataset::new("set", four().take(0), four()).is_err());
}
