//! `depot.cli.v1beta1.LoginService`: a terminal asks, a person approves in a browser, the terminal gets a token of its own.
//!
//! Both calls need no token. What a login is known by is as hard to guess as a token, and it can be approved once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_wire::depot::cli::v1beta1 as wire;
use cofferdam_wire::depot::cli::v1beta1::LoginService;
use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use tokio::sync::watch;

use super::{Api, origin};

/// How long a login waits to be approved.
const LIFE: Duration = Duration::from_secs(600);
/// Most logins that wait at once; older ones give way to none, so a flood only hinders logins.
const MOST: usize = 1000;

/// Logins that wait.
#[derive(Default)]
pub(crate) struct Logins(Mutex<HashMap<String, Login>>);

struct Login {
    begun: Instant,
    /// The token, once approved.
    token: watch::Sender<Option<String>>,
}

impl Logins {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Login>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Option<String> {
        let mut logins = self.lock();
        logins.retain(|_, login| login.begun.elapsed() < LIFE);
        if logins.len() >= MOST {
            return None;
        }
        // As hard to guess as a token: whoever knows it gets the token.
        let (secret, _) = cofferdam_access::mint(cofferdam_access::TokenKind::Session);
        let id = secret.splitn(3, '_').last().unwrap_or(&secret).to_owned();
        let (token, _) = watch::channel(None);
        logins.insert(id.clone(), Login { begun: Instant::now(), token });
        Some(id)
    }

    /// Whether a login waits for its approval.
    pub(crate) fn waits(&self, id: &str) -> bool {
        self.lock()
            .get(id)
            .is_some_and(|login| login.begun.elapsed() < LIFE && login.token.borrow().is_none())
    }

    /// Gives a login its token. False when it does not wait.
    pub(crate) fn approve(&self, id: &str, token: String) -> bool {
        let logins = self.lock();
        let Some(login) = logins.get(id).filter(|login| login.begun.elapsed() < LIFE) else {
            return false;
        };
        login.token.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(token);
            }
            first
        })
    }

    fn follow(&self, id: &str) -> Option<watch::Receiver<Option<String>>> {
        self.lock().get(id).map(|login| login.token.subscribe())
    }

    fn forget(&self, id: &str) {
        self.lock().remove(id);
    }
}

/// The service.
pub(super) struct LoginApi(pub(super) Arc<Api>);

impl LoginService for LoginApi {
    async fn start_login(
        &self,
        context: RequestContext,
        _request: ServiceRequest<'_, wire::StartLoginRequest>,
    ) -> ServiceResult<wire::StartLoginResponse> {
        let id = self.0.logins.begin().ok_or_else(|| {
            ConnectError::resource_exhausted(
                "too many logins wait to be approved: try again in some minutes",
            )
        })?;
        let approve_url = origin(&context).url(&cofferdam_pages::approve_path(&id));
        Response::ok(wire::StartLoginResponse { id, approve_url, ..Default::default() })
    }

    async fn finish_login(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, wire::FinishLoginRequest>,
    ) -> ServiceResult<ServiceStream<wire::FinishLoginResponse>> {
        let id = request.to_owned_message().id;
        let mut login = self.0.logins.follow(&id).ok_or_else(unknown)?;
        let api = Arc::clone(&self.0);
        let answer = async move {
            let approved = tokio::time::timeout(LIFE, login.wait_for(Option::is_some)).await;
            let token = match approved {
                Ok(Ok(token)) => token.clone().unwrap_or_default(),
                _ => return Err(unknown()),
            };
            api.logins.forget(&id);
            Ok(wire::FinishLoginResponse { token, ..Default::default() })
        };
        Response::stream_ok(futures::stream::once(answer))
    }
}

fn unknown() -> ConnectError {
    ConnectError::not_found("this login is not waiting any more: start again")
}
