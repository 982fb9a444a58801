//! Answering on a socket until told to stop.

use axum::Router;
use std::{future::Future, io, net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, sync::oneshot};

/// Requests under way have this long once the server is told to stop. Streams never end by themselves: whoever reads
/// one connects again, to another server or to the next one.
const GRACE: Duration = Duration::from_secs(3);

/// Answers until `stop` returns, then lets requests under way finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopped, was_stopped) = oneshot::channel();
    let stop = async move {
        stop.await;
        // Nobody to tell: then the server has ended already.
        let _ = stopped.send(());
    };
    let serving = async {
        // Who is at the other end: what may be said to an edge depends on it.
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, router).with_graceful_shutdown(stop).await
    };
    let out_of_patience = async {
        match was_stopped.await {
            Ok(()) => tokio::time::sleep(GRACE).await,
            // The server ended without being told to; its own result says why.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        served = serving => served,
        () = out_of_patience => Ok(()),
    }
}
