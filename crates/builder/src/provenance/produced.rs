//! Which request made a graph, as long as the build that made it runs.
//!
//! A client may take what one build made as an input of another one, which then tells where its
//! input comes from. Only builds of one scope know of each other here, and what a build made is
//! forgotten when it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use buffa::Message as _;
use cofferdam_digest::Digest;
use cofferdam_provenance::RequestProvenance;
use cofferdam_wire::pb;

/// Graphs that are remembered; each build holds far fewer, and one more is then not told.
const MAX_KNOWN: usize = 100_000;

type Key = (String, Digest);

/// Requests by the graphs they made.
#[derive(Default)]
pub(crate) struct Produced(Mutex<HashMap<Key, Vec<Weak<RequestProvenance>>>>);

impl Produced {
    /// Remembers that `request` of `scope` made the graph under `head`, while the value lives.
    pub(super) fn add(&self, scope: &str, head: Digest, request: &Arc<RequestProvenance>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.retain(|_, made| made.iter().any(|made| made.strong_count() > 0));
        }
        if known.len() < MAX_KNOWN {
            let made = known.entry((scope.to_owned(), head)).or_default();
            made.retain(|made| made.strong_count() > 0);
            if !made.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(request))) {
                made.push(Arc::downgrade(request));
            }
        }
    }

    /// The request that made `definition`, when all that did are equal.
    pub(super) fn find(
        &self,
        scope: &str,
        definition: &pb::Definition,
    ) -> Option<Arc<RequestProvenance>> {
        let head = head(definition)?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = known.get(&(scope.to_owned(), head))?;
        let mut requests = made.iter().filter_map(Weak::upgrade);
        let first = requests.next()?;
        requests.all(|other| other == first).then_some(first)
    }
}

/// The op that a definition stands for.
fn head(definition: &pb::Definition) -> Option<Digest> {
    let last = pb::Op::decode_from_slice(definition.def.last()?).ok()?;
    Digest::parse(&last.inputs.first()?.digest).ok()
}

#[cfg(test)]
mod tests {
    use cofferdam_graph::{Assembler, Output};

    use super::*;

    #[test]
    fn requests_are_known_within_their_scope_while_they_live() {
        let mut assembler = Assembler::new();
        let source = pb::SourceOp { identifier: "local://x".to_owned(), ..Default::default() };
        let op = pb::Op { op: Some(source.into()), ..Default::default() };
        let head = assembler.add(op, pb::OpMetadata::default(), None);
        let definition = assembler.finish(&Output::new(head, 0));

        let produced = Produced::default();
        let mut request = RequestProvenance::default();
        request.config_source.path = "Dockerfile".to_owned();
        let request = Arc::new(request);
        for _ in 0..2 {
            produced.add("a", head, &request);
        }
        assert_eq!(produced.find("a", &definition), Some(Arc::clone(&request)));
        assert_eq!(produced.find("b", &definition), None);
        let second = Arc::new(RequestProvenance::default());
        produced.add("a", head, &second);
        assert_eq!(produced.find("a", &definition), None);
        drop(second);
        assert_eq!(produced.find("a", &definition), Some(Arc::clone(&request)));
        drop(request);
        assert_eq!(produced.find("a", &definition), None);
        assert_eq!(produced.find("a", &pb::Definition::default()), None);
    }
}
