//! Connections that have switched to another protocol: bytes both ways, until one side ends, the tenant moves or is drained.
//!
//! Never reads what is said; of a WebSocket it follows the frames, to end it between two of them.

use crate::{
    core::Connected,
    frames::{CLOSE_RESTART, Frames},
    pool::Busy,
    pulse::Tunnelled,
    tenant::Tenant,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

/// How long a frame may take to end, and a client to answer a close.
const CLOSE_TIME: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 8 * 1024;

/// Both sides, as soon as they have switched.
pub struct Ends {
    pub client: OnUpgrade,
    pub member: OnUpgrade,
    pub websocket: bool,
}

/// Carries until it ends, and counts what was carried. `_kept`: of the client's connection, which in HTTP/2 is not the
/// tunnel's own.
pub async fn run(
    ends: Ends,
    tenant: Rc<Tenant>,
    farewell: impl Future<Output = ()>,
    _open: Connected,
    _busy: Busy,
    _kept: Tunnelled,
) {
    let (Ok(client), Ok(member)) = tokio::join!(ends.client, ends.member) else { return };
    // Either side going away is the ordinary end.
    let _ = carry(client, member, ends.websocket, &tenant, pin!(farewell)).await;
}

async fn carry(
    client: Upgraded,
    member: Upgraded,
    websocket: bool,
    tenant: &Tenant,
    farewell: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<()> {
    let (mut client_read, mut client_write) = tokio::io::split(TokioIo::new(client));
    let (mut member_read, mut member_write) = tokio::io::split(TokioIo::new(member));
    let mut frames = Frames::default();
    let moved = {
        let up = async {
            let carried =
                copy(&mut client_read, &mut member_write, |part| tenant.metered(|m| m.received_bytes += part)).await;
            // The client has said all it will say; the member may still answer.
            member_write.shutdown().await?;
            carried
        };
        let down = down(&mut member_read, &mut client_write, &mut frames, tenant, farewell);
        tokio::pin!(up, down);
        tokio::select! {
            moved = &mut down => moved?,
            ended = &mut up => { ended?; down.await? }
        }
    };
    if moved && websocket && frames.between() {
        let said = async {
            client_write.write_all(&CLOSE_RESTART).await?;
            client_write.flush().await
        };
        timeout(CLOSE_TIME, said).await??;
        // A close is answered by a close: waiting for it spares the client a reset that could swallow ours.
        let mut rest = [0; 512];
        let answered = async { while client_read.read(&mut rest).await.is_ok_and(|n| n > 0) {} };
        let _ = timeout(CLOSE_TIME, client_write.shutdown()).await;
        let _ = timeout(CLOSE_TIME, answered).await;
        return Ok(());
    }
    // A client that takes nothing more must not keep its place here.
    timeout(CLOSE_TIME, client_write.shutdown()).await.unwrap_or(Ok(()))
}

/// Member to client. `true`: ended because it was to end.
async fn down(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    frames: &mut Frames,
    tenant: &Tenant,
    mut farewell: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            () = farewell.as_mut() => break,
            read = from.read(&mut buffer) => read?,
        };
        if read == 0 {
            return Ok(false);
        }
        frames.feed(&buffer[..read]);
        let mut written = pin!(async {
            to.write_all(&buffer[..read]).await?;
            // Over TLS the end of a burst may stand in a buffer of ours until somebody asks for it to go.
            to.flush().await
        });
        let ends = tokio::select! {
            biased;
            written = written.as_mut() => {
                written?;
                false
            }
            () = farewell.as_mut() => {
                // A client that takes nothing is cut: it would stay for as long as it likes.
                timeout(CLOSE_TIME, written.as_mut()).await??;
                true
            }
        };
        tenant.metered(|m| m.sent_bytes += read as u64);
        if ends {
            break;
        }
    }
    // In the midst of a frame its end is waited for; a byte at a time, so as not to begin the next.
    let _ = timeout(CLOSE_TIME, async {
        while !frames.between() {
            let read = from.read(&mut buffer[..1]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            frames.feed(&buffer[..1]);
            to.write_all(&buffer[..1]).await?;
            to.flush().await?;
        }
        io::Result::Ok(())
    })
    .await;
    Ok(true)
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    counted: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        counted(read as u64);
    }
}
