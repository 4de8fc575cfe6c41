//! `/metrics`, `/healthz` and `/readyz`. Loopback unless said otherwise: what they tell is for the operator.

use crate::gate::Gate;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use tokio::net::TcpListener;

#[derive(Clone)]
struct Shown {
    gate: Arc<Gate>,
    metrics: PrometheusHandle,
}

/// Serves until the process ends.
///
/// # Errors
/// What the listener says.
pub(super) async fn serve(listener: TcpListener, gate: Arc<Gate>, metrics: PrometheusHandle) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Shown { gate, metrics });
    axum::serve(listener, router).await
}

async fn scrape(State(shown): State<Shown>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shown.metrics.render())
}

/// Ready means that permits are given.
async fn ready(State(shown): State<Shown>) -> (StatusCode, String) {
    match shown.gate.closed() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => {
            let (en, zh) = why.means();
            (StatusCode::SERVICE_UNAVAILABLE, format!("closed: {}\n{en}\n{zh}\n", why.word()))
        }
    }
}
