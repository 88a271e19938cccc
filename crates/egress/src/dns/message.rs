//! Reads and writes messages of the name service.
//!
//! Both directions carry hostile bytes: queries come from steps, answers from whoever owns a name. Every offset is checked,
//! compression pointers may only point backwards, and counts are bounded. What cannot be read is refused, never guessed.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// Response codes (RFC 1035, 4.1.1).
pub(crate) mod rcode {
    pub(crate) const NO_ERROR: u8 = 0;
    pub(crate) const FORMAT_ERROR: u8 = 1;
    pub(crate) const SERVER_FAILURE: u8 = 2;
    pub(crate) const NO_SUCH_NAME: u8 = 3;
    pub(crate) const NOT_IMPLEMENTED: u8 = 4;
    pub(crate) const REFUSED: u8 = 5;
}

/// Record types this crate treats specially.
pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const DNAME: u16 = 39;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const SVCB: u16 = 64;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
/// Longest name on the wire (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;
/// Pointers followed in one name; real messages need two or three.
const MAX_POINTERS: usize = 16;
/// Records looked at in one message: large round-robin sets have dozens.
const MAX_RECORDS: u16 = 512;
/// Size every client takes over UDP (RFC 1035).
const PLAIN_UDP: usize = 512;
/// Largest UDP answer asked of a resolver on the step's behalf.
const MAX_UDP: u16 = 4096;

const FLAG_REPLY: u8 = 0x80;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSE: u8 = 0x01;
const FLAG_RECURSION_AVAILABLE: u8 = 0x80;

/// A well-formed query for the fuzz entry point.
pub(crate) const SAMPLE_QUERY: &[u8] =
    b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01";

/// The part of a query's header that a reply repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u16,
    flags: u8,
}

/// Why a query is not asked on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QueryError {
    /// Too short to reply to, or itself a reply.
    Hopeless,
    /// To be answered with a code.
    Reply(Header, u8),
}

/// An answer that must not be passed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One question.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) header: Header,
    /// Lower case, without trailing dot; unusual bytes as `\ddd`.
    pub(crate) name: String,
    pub(crate) kind: u16,
    /// The question as the step wrote it, letter case included.
    question: Vec<u8>,
    /// Largest reply the step takes in a datagram.
    pub(crate) udp_size: usize,
    edns: bool,
}

/// What matters of a resolver's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) truncated: bool,
    /// IPv4 addresses of the answer section with their time to live.
    pub(crate) addresses: Vec<(Ipv4Addr, u32)>,
    /// IPv4 addresses anywhere else.
    pub(crate) others: Vec<Ipv4Addr>,
    /// Names the question was led on to.
    pub(crate) aliases: Vec<String>,
    /// Where the answer section ends.
    pub(crate) answers_end: usize,
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

/// The name at `at` and where the bytes after it begin.
fn name_at(data: &[u8], at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let (mut at, mut end, mut pointers, mut length) = (at, None, 0, 0);
    loop {
        let head = *data.get(at)?;
        match head >> 6 {
            0 if head == 0 => return Some((name, end.unwrap_or(at + 1))),
            0 => {
                let label = data.get(at + 1..at + 1 + usize::from(head))?;
                length += label.len() + 1;
                if length >= MAX_NAME {
                    return None;
                }
                push_label(&mut name, label);
                at += 1 + label.len();
            }
            3 => {
                let target = usize::from(u16_at(data, at)? & 0x3fff);
                end.get_or_insert(at + 2);
                pointers += 1;
                if target >= at || pointers > MAX_POINTERS {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
    }
}

/// Appends a label so that different labels never look the same: a dot within one would otherwise forge a parent.
fn push_label(name: &mut String, label: &[u8]) {
    if !name.is_empty() {
        name.push('.');
    }
    for byte in label {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                name.push(char::from(byte.to_ascii_lowercase()))
            }
            // Writing to a string does not fail.
            other => drop(write!(name, "\\{other:03}")),
        }
    }
}

impl Query {
    pub(crate) fn parse(data: &[u8]) -> Result<Query, QueryError> {
        let header: &[u8; HEADER] = data.first_chunk().ok_or(QueryError::Hopeless)?;
        if header[2] & FLAG_REPLY != 0 {
            return Err(QueryError::Hopeless);
        }
        let echo = Header { id: u16::from_be_bytes([header[0], header[1]]), flags: header[2] };
        if (header[2] >> 3) & 0xf != 0 {
            return Err(QueryError::Reply(echo, rcode::NOT_IMPLEMENTED));
        }
        let malformed = || QueryError::Reply(echo, rcode::FORMAT_ERROR);
        let counts = [4, 6, 8].map(|at| u16_at(data, at).unwrap_or(u16::MAX));
        if counts != [1, 0, 0] {
            return Err(malformed());
        }
        let (name, after) = name_at(data, HEADER).ok_or_else(malformed)?;
        let question = data.get(HEADER..after + 4).ok_or_else(malformed)?.to_vec();
        // A pointer in the question could only lead into the header.
        if question.len() != wire_length(&question) + 4 {
            return Err(malformed());
        }
        let kind = u16_at(data, after).ok_or_else(malformed)?;
        if u16_at(data, after + 2) != Some(CLASS_IN) {
            return Err(QueryError::Reply(echo, rcode::REFUSED));
        }
        let edns = udp_size(data, after + 4).ok_or_else(malformed)?;
        let udp_size =
            edns.map_or(PLAIN_UDP, |size| usize::from(size.clamp(PLAIN_UDP as u16, MAX_UDP)));
        Ok(Query { header: echo, name, kind, question, udp_size, edns: edns.is_some() })
    }

    /// The query as it is sent to a resolver: the question and nothing else of the step's message.
    pub(crate) fn forwarded(&self, id: u16, udp: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.question.len() + 11);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&[FLAG_RECURSE, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(self.edns)]);
        out.extend_from_slice(&self.question);
        if self.edns {
            let size = if udp { u16::try_from(self.udp_size).unwrap_or(MAX_UDP) } else { MAX_UDP };
            out.push(0);
            out.extend_from_slice(&rtype::OPT.to_be_bytes());
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(&[0; 6]);
        }
        out
    }

    /// A reply with a code and no records.
    pub(crate) fn reply(&self, code: u8) -> Vec<u8> {
        let mut out = bare_reply(self.header, code);
        out[5] = 1;
        out.extend_from_slice(&self.question);
        out
    }

    /// A reply that makes the step ask again over TCP.
    pub(crate) fn truncated(&self) -> Vec<u8> {
        let mut out = self.reply(rcode::NO_ERROR);
        out[2] |= FLAG_TRUNCATED;
        out
    }

    /// A reply with only these addresses, as if the name itself had them.
    pub(crate) fn reply_with(&self, addresses: &[(Ipv4Addr, u32)]) -> Vec<u8> {
        let mut out = self.reply(rcode::NO_ERROR);
        let addresses = &addresses[..addresses.len().min(usize::from(MAX_RECORDS))];
        out[6..8].copy_from_slice(&(addresses.len() as u16).to_be_bytes());
        for (address, ttl) in addresses {
            // The owner is a pointer to the question.
            out.extend_from_slice(&[0xc0, HEADER as u8]);
            out.extend_from_slice(&rtype::A.to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&ttl.to_be_bytes());
            out.extend_from_slice(&[0, 4]);
            out.extend_from_slice(&address.octets());
        }
        out
    }

    fn is_asked_by(&self, data: &[u8]) -> bool {
        data.get(HEADER..HEADER + self.question.len())
            .is_some_and(|echo| echo.eq_ignore_ascii_case(&self.question))
    }
}

/// Length of an uncompressed name with its final zero.
fn wire_length(data: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&head) = data.get(at) {
        if head == 0 {
            return at + 1;
        }
        at += 1 + usize::from(head);
    }
    usize::MAX - 4
}

/// The EDNS size in the records after the question, when there is one. `None` when they cannot be read.
fn udp_size(data: &[u8], mut at: usize) -> Option<Option<u16>> {
    let mut size = None;
    for _ in 0..u16_at(data, 10)?.min(MAX_RECORDS) {
        let record = Record::parse(data, at)?;
        if record.kind == rtype::OPT {
            size = Some(record.class);
        }
        at = record.end;
    }
    Some(size)
}

struct Record {
    kind: u16,
    class: u16,
    ttl: u32,
    data: usize,
    end: usize,
}

impl Record {
    fn parse(data: &[u8], at: usize) -> Option<Record> {
        let (_, fixed) = name_at(data, at)?;
        let length = usize::from(u16_at(data, fixed + 8)?);
        let end = fixed + 10 + length;
        (end <= data.len()).then_some(())?;
        Some(Record {
            kind: u16_at(data, fixed)?,
            class: u16_at(data, fixed + 2)?,
            ttl: u32_at(data, fixed + 4)?,
            data: fixed + 10,
            end,
        })
    }

    fn address(&self, data: &[u8]) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = data.get(self.data..self.end)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    }
}

impl Answer {
    /// Reads an answer to `query`. Whether its id is the one sent is the caller's to check.
    pub(crate) fn parse(data: &[u8], query: &Query) -> Result<Answer, Malformed> {
        Answer::read(data, query).ok_or(Malformed)
    }

    fn read(data: &[u8], query: &Query) -> Option<Answer> {
        let flags = *data.get(2)?;
        if flags & FLAG_REPLY == 0 || u16_at(data, 4)? != 1 || !query.is_asked_by(data) {
            return None;
        }
        let mut answer = Answer {
            truncated: flags & FLAG_TRUNCATED != 0,
            addresses: Vec::new(),
            others: Vec::new(),
            aliases: Vec::new(),
            answers_end: HEADER + query.question.len(),
        };
        if answer.truncated {
            return Some(answer);
        }
        let (answers, authorities, additional) =
            (u16_at(data, 6)?, u16_at(data, 8)?, u16_at(data, 10)?);
        let total = answers.checked_add(authorities)?.checked_add(additional)?;
        (total <= MAX_RECORDS).then_some(())?;
        let mut at = answer.answers_end;
        for index in 0..total {
            let record = Record::parse(data, at)?;
            at = record.end;
            if index < answers {
                answer.take(data, &record, query.kind)?;
                answer.answers_end = at;
            } else if record.kind == rtype::A {
                answer.others.push(record.address(data)?);
            }
        }
        Some(answer)
    }

    fn take(&mut self, data: &[u8], record: &Record, asked: u16) -> Option<()> {
        match record.kind {
            rtype::A if asked == rtype::A => {
                self.addresses.push((record.address(data)?, record.ttl))
            }
            // Nobody asked for an address here, so a step gets none.
            rtype::A | rtype::AAAA | rtype::SVCB | rtype::HTTPS => return None,
            rtype::CNAME | rtype::DNAME => self.aliases.push(name_at(data, record.data)?.0),
            _ => {}
        }
        Some(())
    }
}

/// A reply without even a question.
pub(crate) fn bare_reply(header: Header, code: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&header.id.to_be_bytes());
    out.push(FLAG_REPLY | header.flags & (0x78 | FLAG_RECURSE));
    out.push(FLAG_RECURSION_AVAILABLE | code);
    out.extend_from_slice(&[0; 8]);
    out
}

/// Removes the authority and additional sections.
pub(crate) fn cut_after_answers(data: &mut Vec<u8>, answers_end: usize) {
    data.truncate(answers_end);
    if let Some(counts) = data.get_mut(8..HEADER) {
        counts.fill(0);
    }
}

pub(crate) fn set_id(data: &mut [u8], id: u16) {
    if let Some(field) = data.first_chunk_mut() {
        *field = id.to_be_bytes();
    }
}

pub(crate) fn id(data: &[u8]) -> Option<u16> {
    u16_at(data, 0)
}
