//! The UDP socket and the timers below quinn. Those that quinn brings along wake a thread for each
//! datagram that has left and write to a pipe for each timer that moves; these wake nobody but for
//! something to do.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep_until};

/// Tokio, as quinn uses it here.
#[derive(Debug)]
pub(crate) struct Quiet;

impl Runtime for Quiet {
    fn new_timer(&self, due: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let due = due.into();
        Box::pin(Timer { due, sleep: Box::pin(sleep_until(due)) })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        drop(tokio::spawn(future));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // It makes the socket one that does not block, too.
        let state = UdpSocketState::new((&socket).into())?;
        let socket = registered(socket, Interest::READABLE)?;
        Ok(Arc::new(Socket { state, socket, is_full: AtomicBool::new(false) }))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// A timer that moves with every packet, nearly always to a later time: that is looked at when the
/// time comes that it had before.
#[derive(Debug)]
struct Timer {
    due: tokio::time::Instant,
    sleep: Pin<Box<Sleep>>,
}

impl AsyncTimer for Timer {
    fn reset(self: Pin<&mut Self>, due: Instant) {
        let timer = self.get_mut();
        timer.due = due.into();
        if timer.due < timer.sleep.deadline() {
            timer.sleep.as_mut().reset(timer.due);
        }
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.get_mut();
        loop {
            ready!(Future::poll(timer.sleep.as_mut(), cx));
            if timer.due <= timer.sleep.deadline() {
                return Poll::Ready(());
            }
            timer.sleep.as_mut().reset(timer.due);
        }
    }
}

/// A socket that tells only of what has come. The kernel says of each datagram that has left that
/// there is room for another, which would wake a thread of the sender at the very moment in which
/// the receiver begins to work.
#[derive(Debug)]
struct Socket {
    state: UdpSocketState,
    socket: AsyncFd<UdpSocket>,
    /// The last datagram found no room.
    is_full: AtomicBool,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, waits: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.socket.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.is_full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let received = ready.try_io(|it| self.state.recv(it.get_ref().into(), buffers, meta));
            let Ok(received) = received else { continue };
            // Fewer than there was room for: those were all, and what comes now is told anew.
            if received.as_ref().is_ok_and(|count| *count < buffers.len()) {
                ready.clear_ready();
            }
            return Poll::Ready(received);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits for room to send, where there was none.
#[derive(Debug)]
struct Room {
    socket: Arc<Socket>,
    /// The same socket by another name, because it is registered under its own for reading.
    waits: Option<AsyncFd<OwnedFd>>,
}

impl UdpPoller for Room {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, waits } = self.get_mut();
        if waits.is_none() {
            if !socket.is_full.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            let same = socket.socket.get_ref().as_fd().try_clone_to_owned()?;
            *waits = Some(registered(same, Interest::WRITABLE)?);
        }
        if let Some(same) = waits {
            ready!(same.poll_write_ready(cx))?.retain_ready();
        }
        socket.is_full.store(false, Ordering::Relaxed);
        *waits = None;
        Poll::Ready(Ok(()))
    }
}

#[expect(deprecated, reason = "its successor is unsafe, for what does not own its descriptor")]
fn registered<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_timer_ends_when_it_was_moved_to() {
        let began = Quiet.now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut timer = Quiet.new_timer(at(10));
        timer.as_mut().reset(at(60));
        poll_fn(|cx| timer.as_mut().poll(cx)).await;
        assert!(at(60) <= Quiet.now(), "later than it was");
        timer.as_mut().reset(at(3_600_000));
        timer.as_mut().reset(at(90));
        poll_fn(|cx| timer.as_mut().poll(cx)).await;
        assert!(at(90) <= Quiet.now(), "after it was over, and earlier than it was");
    }

    #[tokio::test]
    async fn who_found_no_room_hears_of_it() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let state = UdpSocketState::new((&socket).into()).unwrap();
        let socket = registered(socket, Interest::READABLE).unwrap();
        let socket = Arc::new(Socket { state, socket, is_full: AtomicBool::new(true) });
        let mut room = Arc::clone(&socket).create_io_poller();
        poll_fn(|cx| room.as_mut().poll_writable(cx)).await.unwrap();
        assert!(!socket.is_full.load(Ordering::Relaxed));
        // Where there was room it waits for nothing, and registers nothing.
        let room = Room { socket, waits: None };
        let mut room = Box::pin(room);
        poll_fn(|cx| room.as_mut().poll_writable(cx)).await.unwrap();
        assert!(room.waits.is_none());
    }
}
