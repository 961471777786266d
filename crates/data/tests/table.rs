//! Tables of tensors: rows stay together, for any types and shapes.

#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use std::collections::BTreeSet;
use taper_data::{Columns, Table};

fn rng(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

/// Row `i` is `[3i, 3i + 1, 3i + 2]` and `i`.
fn table(n: usize) -> Table<(Tensor, Tensor)> {
    let xs = Tensor::arange(0_f32, 3.0 * n as f32, &Device::Cpu).unwrap().reshape((n, 3)).unwrap();
    Table::new((xs, Tensor::arange(0_u32, n as u32, &Device::Cpu).unwrap())).unwrap()
}

/// The targets of batches whose rows belong together.
fn targets(batches: impl Iterator<Item = taper_data::Result<(Tensor, Tensor)>>) -> Vec<Vec<u32>> {
    let targets = |batch: taper_data::Result<(Tensor, Tensor)>| {
        let (xs, ys) = batch.unwrap();
        let ys = ys.to_vec1::<u32>().unwrap();
        let expected: Vec<Vec<f32>> =
            ys.iter().map(|&y| (0..3).map(|i| (3 * y + i) as f32).collect()).collect();
        assert_eq!(xs.to_vec2::<f32>().unwrap(), expected);
        ys
    };
    batches.map(targets).collect()
}

#[test]
fn batches_come_in_order_and_the_last_is_smaller() {
    assert_eq!(targets(table(5).batches(2)), [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!(table(5).batches(2).len(), 3);
    assert_eq!(targets(table(5).batches(2).skip(2)), [vec![4]]);
    assert_eq!(targets(table(5).batches(usize::MAX)), [vec![0, 1, 2, 3, 4]]);
}

#[test]
fn a_shuffle_is_a_permutation_that_the_seed_decides() {
    let order = |seed| targets(table(100).shuffled(&mut rng(seed), 7)).concat();
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    assert_ne!(order(1), (0..100).collect::<Vec<u32>>());
    assert_eq!(order(1).into_iter().collect::<BTreeSet<u32>>().len(), 100);
    assert_eq!(targets(table(100).shuffled(&mut rng(1), 7).skip(3)).concat(), order(1)[21..]);
}

#[test]
fn a_table_is_shuffled_as_images_are() {
    let split = taper_data::digits().unwrap().train;
    let labels = Tensor::new(split.labels(), &Device::Cpu).unwrap();
    let batch = Table::new(labels).unwrap().shuffled(&mut rng(5), 100).next().unwrap().unwrap();
    let images = split.shuffled(&mut rng(5), 100).next().unwrap().unwrap();
    assert_eq!(batch.to_vec1::<u32>().unwrap(), images.labels.to_vec1::<u32>().unwrap());
}

#[test]
fn parts_are_views_that_are_tables() {
    let (train, rest) = table(10).split_last(4).unwrap();
    let (validation, test) = rest.split_last(1).unwrap();
    assert_eq!(targets(train.take(2).unwrap().batches(5)), [[0, 1]]);
    assert_eq!(targets(validation.batches(2)), [vec![6, 7], vec![8]]);
    let mut shuffled = targets(validation.shuffled(&mut rng(1), 3)).concat();
    shuffled.sort_unstable();
    assert_eq!(shuffled, [6, 7, 8]);
    assert_eq!(targets(test.batches(1)), [[9]]);
    let (all, none) = table(3).split_last(0).unwrap();
    assert_eq!((all.len(), none.len(), none.is_empty(), none.batches(1).count()), (3, 0, true, 0));
    assert_eq!(table(3).take(9).unwrap().len(), 3);
}

#[test]
fn a_random_split_has_every_row_once() {
    let parts = |seed| {
        let (train, test) = table(50).split_random(10, &mut rng(seed)).unwrap();
        [train, test].map(|part| targets(part.batches(100)).concat())
    };
    let [train, test] = parts(1);
    assert_eq!((train.len(), test.len()), (40, 10));
    assert_ne!(test, (40..50).collect::<Vec<u32>>());
    assert_eq!(train.iter().chain(&test).collect::<BTreeSet<_>>().len(), 50);
    assert_eq!(parts(1), [train, test]);
    assert_ne!(parts(1), parts(2));
}

#[test]
fn columns_have_any_type_and_shape() {
    for dtype in [
        DType::U8,
        DType::U32,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::BF16,
        DType::F16,
        DType::F32,
        DType::F64,
    ] {
        let tokens = Tensor::arange(0_i64, 24, &Device::Cpu).unwrap().reshape((4, 3, 1, 2)).unwrap();
        let table = Table::new(tokens.to_dtype(dtype).unwrap()).unwrap();
        let last = table.batches(3).last().unwrap().unwrap();
        assert_eq!((last.dims(), last.dtype()), (&[1, 3, 1, 2][..], dtype));
        let values: Vec<f64> = last.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(values, [18.0, 19.0, 20.0, 21.0, 22.0, 23.0]);
        assert_eq!(table.checksum().unwrap().len(), 64);
    }
}

#[derive(Clone)]
struct Scene {
    image: Tensor,
    mask: Tensor,
    weight: Tensor,
}

impl Columns for Scene {
    fn map(&self, f: &mut dyn FnMut(&Tensor) -> candle_core::Result<Tensor>) -> candle_core::Result<Self> {
        Ok(Self { image: f(&self.image)?, mask: f(&self.mask)?, weight: f(&self.weight)? })
    }
}

#[test]
fn columns_may_be_a_struct_and_nested_pairs() {
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let scene = Scene { image: ones(&[4, 3, 8, 8]), mask: ones(&[4, 8, 8]), weight: ones(&[4]) };
    let batch = Table::new(scene.clone()).unwrap().shuffled(&mut rng(1), 3).next().unwrap().unwrap();
    assert_eq!(
        (batch.image.dims(), batch.mask.dims(), batch.weight.dims()),
        (&[3, 3, 8, 8][..], &[3, 8, 8][..], &[3][..])
    );
    let table = Table::new(((scene.image, scene.mask), scene.weight)).unwrap();
    assert_eq!(table.batches(4).next().unwrap().unwrap().0.1.dims(), [4, 8, 8]);
}

#[test]
fn batches_carry_no_graph_and_columns_need_not_be_contiguous() {
    let var = Var::new(&[[1_f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
    let table = Table::new(var.t().unwrap()).unwrap();
    let batch = table.batches(1).next().unwrap().unwrap();
    assert_eq!(batch.to_vec2::<f32>().unwrap(), [[1.0, 3.0]]);
    assert!(batch.sum_all().unwrap().backward().unwrap().get(&var).is_none());
}

#[test]
fn the_checksum_is_of_types_shapes_and_values() {
    let sum = |columns: (Tensor, Tensor)| Table::new(columns).unwrap().checksum().unwrap();
    let (xs, ys) = table(6).columns().clone();
    let whole = sum((xs.clone(), ys.clone()));
    assert_eq!(whole, table(6).checksum().unwrap());
    // python3 -c 'import hashlib, struct; print(hashlib.sha256(b"u32 [2]\n" + struct.pack("<2I", 1, 2)).hexdigest())'
    let small = Table::new(Tensor::new(&[1_u32, 2], &Device::Cpu).unwrap()).unwrap().checksum().unwrap();
    assert_eq!(small, "de20a5c93ac925d7e2a6ddfcfd9d4e9eeb3cf143ecc5a9c03882a7a1d72dd968");
    let others = [
        (ys.clone(), xs.clone()),
        (xs.to_dtype(DType::F64).unwrap(), ys.clone()),
        (xs.reshape((6, 3, 1)).unwrap(), ys.clone()),
        (xs.clone(), (&ys + 1.0).unwrap()),
    ];
    assert!(others.into_iter().all(|columns| sum(columns) != whole));
    assert_ne!(table(6).take(5).unwrap().checksum().unwrap(), whole);
    assert_eq!(table(6).take(5).unwrap().checksum().unwrap(), {
        let (xs, ys) = (xs.narrow(0, 0, 5).unwrap(), ys.narrow(0, 0, 5).unwrap());
        sum((xs, ys))
    });
}

#[test]
fn tensors_that_do_not_belong_together_are_one_line() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let cure = "make the first axis of every tensor the samples";
    for (xs, ys, says) in [
        (
            zeros(&[3, 2]),
            zeros(&[4]),
            "tensors with the same number of samples in a table, found shapes [[3, 2], [4]]",
        ),
        (zeros(&[3, 2]), zeros(&[]), "tensors with at least one axis in a table, found shapes [[3, 2], []]"),
        (zeros(&[0, 2]), zeros(&[0]), "at least one sample in a table, found shapes [[0, 2], [0]]"),
    ] {
        assert_eq!(Table::new((xs, ys)).unwrap_err().to_string(), format!("expected {says}: {cure}"));
    }
    let error = table(3).split_last(3).unwrap_err().to_string();
    assert!(
        error.starts_with("expected a validation split below the 3 samples of the table, found 3: "),
        "{error}"
    );
    assert!(table(3).split_random(3, &mut rng(1)).is_err());
    let mut none = table(3).batches(0);
    assert!(
        none.next()
            .unwrap()
            .unwrap_err()
            .to_string()
            .starts_with("expected a batch size of at least 1, found 0")
    );
    assert!(none.next().is_none());
}
