use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// Reads a list whose `key`s ascend and are below `end`.
///
/// As each is larger than the one before, a list is at most as long as its text says it with that many different
/// numbers: it takes no more than about twice the memory of the text, where equal ones could take four times that.
pub(crate) fn ascending<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
    key: fn(&T) -> u64,
    end: u64,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(Ascending { key, end, items: PhantomData })
}

struct Ascending<T> {
    key: fn(&T) -> u64,
    end: u64,
    items: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Ascending<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an ascending list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let (mut items, mut least) = (Vec::new(), 0);
        while let Some(item) = list.next_element()? {
            let key = (self.key)(&item);
            if key < least || key >= self.end {
                let (last, end) = (least.saturating_sub(1), self.end);
                return Err(A::Error::custom(format!(
                    "{key} behind {last}: expected an ascending list of numbers below {end}"
                )));
            }
            least = key + 1;
            items.push(item);
        }
        Ok(items)
    }
}
