//! Tells other processes that something in the store has changed, so that they look at its generation at once.
//!
//! A message carries nothing, and one that is lost costs nothing but time: everybody looks at the generation now and then
//! anyway. A subscription that was broken counts as a message when it is back.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use deadpool_redis::redis::aio::PubSub;
use deadpool_redis::redis::{Client, Cmd, RedisResult};
use futures_core::Stream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Connector, FIRST_PAUSE, LAST_PAUSE, Redis, client};
use crate::error::StoreError;
use crate::telemetry::task;

/// The channel, behind the prefix.
const CHANNEL: &str = "changed";
/// How long a subscription is silent before it is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(5);

/// News of changes, by publish and subscribe. Cheap to clone.
#[derive(Clone)]
pub struct Changes {
    redis: Redis,
}

impl Changes {
    /// News by way of that Redis.
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Says that something has changed. Call it after the write; a failure may be ignored.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn publish(&self) -> Result<(), StoreError> {
        let mut command = Cmd::new();
        command.arg("PUBLISH").arg(self.redis.key(CHANNEL)).arg("");
        self.redis.within(self.redis.background_limit(), async |wire| command.query_async::<()>(wire).await).await
    }

    /// Listens for as long as the receiver is held: a number that changes whenever something may have changed.
    ///
    /// # Errors
    /// As for [`Redis::open`].
    pub fn subscribe(&self) -> Result<watch::Receiver<u64>, StoreError> {
        let (news, receiver) = watch::channel(0);
        let connector = Connector::new(&self.redis.inner.settings)?;
        let urls = self.redis.inner.settings.urls.clone();
        let first = urls.first().map(|url| client(url.expose(), &self.redis.inner.settings));
        // A cluster tells every node, so any will do.
        let any = match (&connector, first) {
            (Connector::Cluster(_), Some(Ok(client))) => Some(client),
            _ => None,
        };
        let limit = self.redis.background_limit();
        drop(task::spawn("news of changes", listen(connector, any, (self.redis.key(CHANNEL), limit), news)));
        Ok(receiver)
    }
}

async fn listen(
    mut connector: Connector,
    any: Option<Client>,
    (channel, limit): (String, Duration),
    news: watch::Sender<u64>,
) {
    let mut pause = FIRST_PAUSE;
    while !news.is_closed() {
        let subscription = timeout(limit, subscribe(&mut connector, any.as_ref(), &channel)).await;
        if let Ok(Ok(mut subscription)) = subscription {
            pause = FIRST_PAUSE;
            // What was said before is not heard.
            news.send_modify(|number| *number += 1);
            hear(&mut subscription, limit, &news).await;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = news.closed() => return,
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn subscribe(connector: &mut Connector, any: Option<&Client>, channel: &str) -> RedisResult<PubSub> {
    let client = match (connector, any) {
        (_, Some(client)) => client.clone(),
        (Connector::Sentinel(sentinel), None) => sentinel.async_get_client().await?,
        (Connector::One(client), None) => (**client).clone(),
        (Connector::Cluster(_), None) => return Err(std::io::Error::from(std::io::ErrorKind::NotFound).into()),
    };
    let mut subscription = client.get_async_pubsub().await?;
    subscription.subscribe(channel).await?;
    Ok(subscription)
}

/// Counts messages until the connection is broken or nobody listens.
async fn hear(subscription: &mut PubSub, limit: Duration, news: &watch::Sender<u64>) {
    loop {
        let message = async {
            let mut messages = pin!(subscription.on_message());
            poll_fn(|context| messages.as_mut().poll_next(context)).await
        };
        tokio::select! {
            heard = timeout(SILENCE, message) => match heard {
                Ok(Some(_)) => {
                    news.send_modify(|number| *number += 1);
                    continue;
                }
                Ok(None) => return,
                Err(_) => {}
            },
            () = news.closed() => return,
        }
        if !matches!(timeout(limit, subscription.ping::<()>()).await, Ok(Ok(()))) {
            return;
        }
    }
}
