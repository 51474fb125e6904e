//! Which shards a sharded queue has, and which of them a key belongs to.

use quorate_proto::{reason, sharding, v1};

use crate::admin::admin;
use crate::client::Client;
use crate::error::{Error, PublishError, Refusal};
use crate::nodes::Effect;

/// The shards of a queue, in the order in which keys are spread over them.
#[derive(Clone, Debug)]
pub(crate) struct Sharding {
    /// Names this list.
    pub generation: u64,
    shards: Vec<Shard>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// The queue that it is.
    pub name: String,
    pub number: u16,
}

/// Name of a shard.
pub(crate) fn shard_name(queue: &str, number: Option<u16>) -> String {
    match number {
        Some(number) => format!("{queue}@{number}"),
        None => queue.to_owned(),
    }
}

/// Whether a call was refused since its queue is sharded.
pub(crate) fn is_of_sharded(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.reason == reason::SHARDED_QUEUE)
}

impl Sharding {
    /// What a node says, if this client can hash so.
    pub fn of(told: &v1::Sharding) -> Result<Self, Error> {
        if told.hash != sharding::XXH64 {
            return Err(Error::Invalid(format!(
                "the queue spreads keys by `{}`, which this version does not know: upgrade the client",
                told.hash
            )));
        }
        let shard = |name: &String| {
            let number = name.rsplit_once('@').and_then(|(_, number)| number.parse().ok())?;
            Some(Shard { name: name.clone(), number })
        };
        match told.shards.iter().map(shard).collect::<Option<Vec<_>>>() {
            Some(shards) if !shards.is_empty() => Ok(Self { generation: told.generation, shards }),
            _ => Err(Error::Invalid("the server's answer names no shards".to_owned())),
        }
    }

    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The place of a key's shard.
    pub fn place(&self, key: &str) -> usize {
        sharding::place(key.as_bytes(), self.shards.len())
    }

    /// The place of the shard that messages with these keys have in common; none if they have none. A message without a
    /// key goes with the others.
    ///
    /// # Errors
    /// When they are of different shards.
    pub fn place_of_all<'a>(
        &self,
        keys: impl Iterator<Item = &'a str>,
    ) -> Result<Option<usize>, PublishError> {
        let mut found: Option<(usize, &str)> = None;
        for key in keys.filter(|key| !key.is_empty()) {
            let place = self.place(key);
            match found {
                Some((first, with)) if first != place => {
                    return Err(refused(format!(
                        "a batch enters in one shard, and the keys {with:?} and {key:?} are of different ones; send \
                         them by themselves"
                    )));
                }
                _ => found = Some((place, key)),
            }
        }
        Ok(found.map(|(place, _)| place))
    }
}

/// A batch that no server would take.
pub(crate) fn refused(message: String) -> PublishError {
    let reason = reason::INVALID_ARGUMENT.to_owned();
    PublishError::Refused(Refusal { reason, message, ..Refusal::default() })
}

/// What was done at some shards only, as an error that names both.
pub(crate) fn in_part(done: &str, shards: Vec<v1::ShardOutcome>) -> Result<(), Error> {
    let (mut at, mut failed) = (Vec::new(), Vec::new());
    let mut first = None;
    for v1::ShardOutcome { shard, count, failure } in shards {
        match failure {
            None => at.push(format!("{shard} ({count})")),
            Some(failure) => {
                failed.push(format!("{shard}: {}", failure.message));
                first.get_or_insert(failure);
            }
        }
    }
    let Some(first) = first else { return Ok(()) };
    let message = format!("{done} at {}; not at {}", at.join(", "), failed.join("; "));
    let metadata = first.metadata.into_iter().collect();
    Err(Error::Refused(Refusal { reason: first.reason, message, retry_after: None, metadata }))
}

impl Client {
    /// The shards of a sharded queue, as any node knows them.
    pub(crate) async fn sharding(&self, queue: &str) -> Result<Sharding, Error> {
        let request = v1::GetShardsRequest { name: queue.to_owned() };
        let ask = |channel| {
            let request = request.clone();
            async move { admin(channel).get_shards(request).await }
        };
        let answer = self.nodes.call(Effect::Reads, ask).await?;
        Sharding::of(&answer.sharding.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(hash: &str, shards: &[&str]) -> v1::Sharding {
        let shards = shards.iter().map(|shard| (*shard).to_owned()).collect();
        v1::Sharding { generation: 1, hash: hash.to_owned(), shards }
    }

    #[test]
    fn a_hash_that_is_not_known_is_refused_rather_than_guessed() {
        let sharding = Sharding::of(&told("xxh64", &["orders@0", "orders@1"])).unwrap();
        let second = Shard { name: "orders@1".to_owned(), number: 1 };
        assert_eq!(sharding.shards()[1], second);
        for told in [told("xxh3", &["orders@0"]), told("xxh64", &[]), told("xxh64", &["orders"])] {
            assert!(Sharding::of(&told).is_err(), "{told:?}");
        }
    }

    #[test]
    fn a_batch_is_of_the_shard_that_its_keys_have_in_common() {
        let sharding = Sharding::of(&told("xxh64", &["a@0", "a@1", "a@2"])).unwrap();
        let place = |keys: &[&'static str]| sharding.place_of_all(keys.iter().copied());
        assert_eq!(place(&["a", "", "customer-1042"]).unwrap(), Some(2));
        assert_eq!(place(&["", ""]).unwrap(), None);
        assert!(place(&["a", "order 7"]).is_err());
    }

    #[test]
    fn what_was_done_in_part_says_where() {
        let outcome = |shard: &str, failure: Option<&str>| v1::ShardOutcome {
            shard: shard.to_owned(),
            count: 3,
            failure: failure.map(|reason| v1::Failure {
                reason: reason.to_owned(),
                message: "no leader".to_owned(),
                ..Default::default()
            }),
        };
        assert!(in_part("purged", vec![outcome("a@0", None)]).is_ok());
        let error =
            in_part("purged", vec![outcome("a@0", None), outcome("a@1", Some("NO_QUORUM"))]);
        let said = error.unwrap_err().to_string();
        assert!(said.contains("purged at a@0 (3); not at a@1: no leader (NO_QUORUM)"), "{said}");
    }
}
