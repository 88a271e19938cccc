//! Tests of what waits on either side of a process.
#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::*;

#[tokio::test]
async fn input_waits_in_small_pieces() {
    const { assert!(INPUT_DEPTH * CHUNK <= 2 << 20) };
    let (sender, mut receiver) = mpsc::channel(INPUT_DEPTH);
    feed(&sender, &vec![7; 3 * CHUNK + 1]).await;
    drop(sender);
    let mut lengths = Vec::new();
    while let Some(piece) = receiver.recv().await {
        lengths.push(piece.len());
    }
    assert_eq!(lengths, [CHUNK, CHUNK, CHUNK, 1]);
}

#[tokio::test]
async fn nothing_is_kept_of_a_process_that_has_ended() {
    let (writer, mut reader) = pipe::pipe().unwrap();
    let known = Known::default();
    let input = forward_input(Input::Pipe(writer), known.ended.clone());
    known.live().input = Some(input.clone());
    feed(&known.input().unwrap(), b"read").await;
    let mut read = [0; 4];
    reader.read_exact(&mut read).await.unwrap();
    // The pipe is full and its reader sleeps, as those do that outlive their process.
    while input.try_send(vec![0; CHUNK]).is_ok() {}
    known.end();
    assert!(known.input().is_none());
    tokio::time::timeout(Duration::from_secs(10), input.closed()).await.unwrap();
    let mut left = Vec::new();
    reader.read_to_end(&mut left).await.unwrap();
    assert!(left.len() < INPUT_DEPTH * CHUNK, "control: not all of it was written");
}

/// What a client hears that reads each message after `pause`, of a process that ended before.
async fn heard(content: &[u8], keep: bool, pause: Duration, rest: Drain) -> usize {
    let (mut writer, reader) = pipe::pipe().unwrap();
    let write = async move {
        // Nobody may be left to read the rest.
        let _ = writer.write_all(content).await;
        keep.then_some(writer)
    };
    let (stream, mut messages) = mpsc::channel(1);
    let replies = Replies { id: "p".to_owned(), stream };
    let ended = CancellationToken::new();
    ended.cancel();
    let client = async {
        let mut length = 0;
        while let Some(Ok(message)) = messages.recv().await {
            if let Some(Message::File(file)) = message.Input {
                length += file.Data.len();
            }
            tokio::time::sleep(pause).await;
        }
        length
    };
    let forward = async move {
        replies.forward(1, Source::Pipe(reader), ended, rest).await;
        drop(replies);
    };
    let (_kept, (), length) = tokio::join!(write, forward, client);
    length
}

#[tokio::test]
async fn a_slow_client_gets_all_output() {
    let content = vec![1; 4 * CHUNK];
    let rest = Drain { wait: Duration::from_millis(300), bytes: 1 << 20 };
    let pause = Duration::from_millis(400);
    assert_eq!(heard(&content, false, pause, rest).await, content.len());
}

#[tokio::test]
async fn an_output_that_others_hold_ends_nevertheless() {
    let content = vec![1; 2 * CHUNK];
    let rest = Drain { wait: Duration::from_millis(300), bytes: 1 << 20 };
    assert_eq!(heard(&content, true, Duration::ZERO, rest).await, content.len());
    let little = Drain { bytes: CHUNK, ..rest };
    let length = heard(&content, true, Duration::ZERO, little).await;
    assert!(length <= CHUNK, "{length}");
}
