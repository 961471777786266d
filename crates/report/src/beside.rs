//! Records whose own fields stand beside those of another type, in one JSON object.
//!
//! serde's `flatten` does this too, but keeps every field of an object in memory before it looks at the first, in
//! thirty times the size that the file has it in; here each goes where it belongs as it is read.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor},
};
use std::{fmt, marker::PhantomData};

use crate::Split;

/// The fields that a record has itself; the rest are those of the type beside them.
#[derive(Default)]
pub(crate) struct Head {
    v: Option<u32>,
    epoch: Option<u32>,
    split: Option<Split>,
}

impl Head {
    pub fn v<E: Error>(&self) -> Result<u32, E> {
        self.v.ok_or_else(|| E::missing_field("v"))
    }

    pub fn epoch<E: Error>(&self) -> Result<u32, E> {
        self.epoch.ok_or_else(|| E::missing_field("epoch"))
    }

    pub fn split<E: Error>(&self) -> Result<Split, E> {
        self.split.ok_or_else(|| E::missing_field("split"))
    }
}

/// A `T` and the fields called `own` beside its own.
pub(crate) struct Beside<T> {
    own: &'static [&'static str],
    rest: PhantomData<T>,
}

impl<T: DeserializeOwned> Beside<T> {
    pub fn of<'de, D: Deserializer<'de>>(
        deserializer: D,
        own: &'static [&'static str],
    ) -> Result<(Head, T), D::Error> {
        deserializer.deserialize_map(Self { own, rest: PhantomData })
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Beside<T> {
    type Value = (Head, T);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut head = Head::default();
        let fields = Fields { map, own: self.own, head: &mut head };
        let rest = T::deserialize(serde::de::value::MapAccessDeserializer::new(fields))?;
        Ok((head, rest))
    }
}

/// The fields of a map without those that go to the head.
struct Fields<'a, A> {
    map: A,
    own: &'static [&'static str],
    head: &'a mut Head,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            let Some(own) = self.own.iter().find(|own| **own == key) else {
                return seed.deserialize(key.into_deserializer()).map(Some);
            };
            match *own {
                "v" => once(&mut self.head.v, &mut self.map, own)?,
                "epoch" => once(&mut self.head.epoch, &mut self.map, own)?,
                _ => once(&mut self.head.split, &mut self.map, own)?,
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

fn once<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    place: &mut Option<T>,
    map: &mut A,
    name: &'static str,
) -> Result<(), A::Error> {
    if place.replace(map.next_value()?).is_some() {
        return Err(A::Error::duplicate_field(name));
    }
    Ok(())
}
