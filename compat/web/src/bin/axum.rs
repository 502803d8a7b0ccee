//! Orders in axum. It needs `axum`, `tokio`, `fairpool`, `fairpool-postgres`, `fairpool-tokio` and
//! `fairpool-prometheus`.

use std::error::Error;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fairpool_prometheus::TEXT_CONTENT_TYPE;
use fairpool_tokio::Interact;
use tokio::net::TcpListener;
use web::{App, Failure, Order};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = App::open()?;
    let routes = Router::new()
        .route("/orders/{id}", get(find))
        .route("/orders", post(add))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app.clone());
    let listener = TcpListener::bind(("127.0.0.1", web::port())).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, routes).with_graceful_shutdown(web::stopped()).await?;
    app.close();
    Ok(())
}

async fn find(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<Order>, Refusal> {
    let found = app.pool.interact(move |conn| web::find(conn, id)).await??;
    Ok(Json(found.ok_or(Failure::NotFound)?))
}

async fn add(State(app): State<App>, item: String) -> Result<(StatusCode, Json<Order>), Refusal> {
    let request = app.pool.request().label("new order");
    let order = request.interact(move |conn| web::add(conn, &item)).await??;
    Ok((StatusCode::CREATED, Json(order)))
}

async fn ready(State(app): State<App>) -> Result<&'static str, (StatusCode, String)> {
    app.is_ready().map_err(|why| (StatusCode::SERVICE_UNAVAILABLE, why))
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT_CONTENT_TYPE)], app.metrics.text())
}

/// A failure, as axum answers it.
struct Refusal(Failure);

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, retry_after) = self.0.status();
        let status = StatusCode::from_u16(status).expect("a status");
        let retry_after = retry_after.map(|seconds| [(header::RETRY_AFTER, seconds.to_string())]);
        (status, retry_after, self.0.to_string()).into_response()
    }
}
