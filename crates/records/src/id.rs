//! Ids: short random names that are path components, image names and DNS labels alike.

use rustix::rand::{GetRandomFlags, getrandom};

/// Digits and consonants: no words come out.
const LETTERS: &[u8; 30] = b"0123456789bcdfghjklmnpqrstvwxz";
/// Letters of the ids of organizations and projects.
const SHORT: usize = 10;
/// Letters of other ids.
const LONG: usize = 12;

/// A new id of an organization or project.
pub(crate) fn short() -> String {
    random(SHORT)
}

/// A new id of anything else.
pub(crate) fn long() -> String {
    random(LONG)
}

fn random(length: usize) -> String {
    let mut id = String::with_capacity(length);
    while id.len() < length {
        let mut bytes = [0; 32];
        // Short reads only mean that another round is needed.
        let filled = getrandom(&mut bytes, GetRandomFlags::empty()).unwrap_or(0);
        // Bytes above the last whole multiple would make some letters more likely.
        let fair = bytes[..filled].iter().filter(|byte| **byte < 240);
        id.extend(
            fair.take(length - id.len()).map(|byte| char::from(LETTERS[usize::from(byte % 30)])),
        );
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_length_and_letters() {
        for id in (0..1000).map(|_| short()) {
            assert!(id.len() == SHORT && id.bytes().all(|byte| LETTERS.contains(&byte)), "{id}");
        }
        assert_eq!(long().len(), LONG);
        assert_ne!(long(), long());
    }
}
