//! One HTTP request over a stream that somebody else opened, and its answer. Never follows a redirect, never asks twice, and
//! reads no more of an answer than anybody needs.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Of the answer, head and body, that is read.
const ANSWER_MOST: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// `head` ends without its empty line. `None`: what came is no HTTP.
///
/// Asked as 1.0, so that the answer ends with the connection and comes in one piece. One that ends before its head or the
/// length that it told is an error: what is missing may be what was asked for.
pub(crate) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    head: &str,
    body: &[u8],
) -> std::io::Result<Option<Answer>> {
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await?;
    let mut all = Vec::new();
    while all.len() < ANSWER_MOST && came(&all) != Came::Whole {
        match stream.read_buf(&mut all).await {
            Ok(0) => break,
            Ok(_) => {}
            // What came before it was cut off is judged.
            Err(_) if !all.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    all.truncate(ANSWER_MOST);
    let answer = read(&all);
    if answer.is_some() && all.len() < ANSWER_MOST && came(&all) == Came::Part {
        let cut = format!("its answer ended after {} bytes, before it was whole", all.len());
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, cut));
    }
    Ok(answer)
}

fn end_of_head(all: &[u8]) -> Option<usize> {
    all.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// How much of an answer there is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Part,
    /// It does not say how long it is: the end of the connection is its end.
    Unsaid,
    /// Not everybody closes when asked to.
    Whole,
}

pub(crate) fn came(all: &[u8]) -> Came {
    let Some(end) = end_of_head(all) else { return Came::Part };
    // These have no body, whatever they say of its length.
    if read(all).is_some_and(|answer| matches!(answer.status, 204 | 304)) {
        return Came::Whole;
    }
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    match length {
        None => Came::Unsaid,
        Some(length) if all.len() - end >= length => Came::Whole,
        Some(_) => Came::Part,
    }
}

pub(crate) fn read(all: &[u8]) -> Option<Answer> {
    let rest = all.strip_prefix(b"HTTP/1.")?;
    let [b'0'..=b'9', b' ', status @ ..] = rest else { return None };
    let (digits, after) = status.split_at_checked(3)?;
    // A number that is longer or has a sign is none of three digits.
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(after.first(), None | Some(b' ' | b'\r')) {
        return None;
    }
    let status = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    let body = end_of_head(all).map_or_else(Vec::new, |end| all[end..].to_vec());
    Some(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::{ask, read};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn an_answer_that_says_its_length_is_not_waited_for_after_it() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let asked = tokio::spawn(async move { ask(&mut near, "POST /h HTTP/1.0\r\n", b"{}").await });
        let mut seen = [0; 64];
        let read = far.read(&mut seen).await.unwrap();
        assert!(seen[..read].starts_with(b"POST /h HTTP/1.0\r\nConnection: close\r\n\r\n"));
        far.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n[]").await.unwrap();
        // It keeps its side open.
        let answer = asked.await.unwrap().unwrap().unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (201, &b"[]"[..]));
    }

    /// What is made of these bytes, and nothing after them.
    async fn answered(bytes: &'static [u8], closes: bool) -> std::io::Result<Option<super::Answer>> {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let asked = tokio::spawn(async move { ask(&mut near, "POST /h HTTP/1.0\r\n", b"{}").await });
        let mut seen = [0; "POST /h HTTP/1.0\r\nConnection: close\r\n\r\n{}".len()];
        far.read_exact(&mut seen).await.unwrap();
        far.write_all(bytes).await.unwrap();
        let open = (!closes).then_some(far);
        let answer = asked.await.unwrap();
        drop(open);
        answer
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_is_none() {
        for cut in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            b"HTTP/1.1 201 Created\r\ncontent-length: 9\r\n\r\n{\"id\": 7",
        ] {
            let error = answered(cut, true).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
        }
        let unsaid = answered(b"HTTP/1.0 200 OK\r\n\r\n{}", true).await.unwrap().unwrap();
        assert_eq!(unsaid.body, b"{}", "the end of the connection is its end");
        assert_eq!(answered(b"SSH-2.0-OpenSSH", true).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_answer_without_a_body_ends_with_its_head() {
        for empty in
            [&b"HTTP/1.1 204 No Content\r\n\r\n"[..], b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"]
        {
            let answer = answered(empty, false).await.unwrap().unwrap();
            assert_eq!(answer.body, b"");
        }
    }

    #[test]
    fn what_is_no_http_is_no_answer() {
        assert_eq!(read(b"SSH-2.0-OpenSSH"), None);
        assert_eq!(read(b"HTTP/1.1"), None);
        for number in ["2000", "+20", "20", "2x0", ""] {
            assert_eq!(read(format!("HTTP/1.1 {number} OK\r\n\r\n").as_bytes()), None, "{number}");
        }
        assert_eq!(read(b"HTTP/1.1x200 OK\r\n\r\n"), None);
        assert_eq!(read(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().body, b"");
    }
}
