//! Orders in Rocket. It needs `rocket`, `fairpool`, `fairpool-postgres`, `fairpool-tokio` and
//! `fairpool-prometheus`.

use std::error::Error;
use std::str::FromStr;

use fairpool_prometheus::TEXT_CONTENT_TYPE;
use fairpool_tokio::Interact;
use rocket::fairing::AdHoc;
use rocket::http::{ContentType, Header, Status};
use rocket::request::Request;
use rocket::response::{self, Responder, Response};
use rocket::serde::json::Json;
use rocket::{Config, State, get, post, routes};
use web::{App, Failure, Order};

#[rocket::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = App::open()?;
    // Rocket itself stops at Ctrl-C and at SIGTERM. Requests then have 10 seconds more.
    let figment = Config::figment().merge(("port", web::port())).merge(("shutdown.grace", 10));
    rocket::custom(figment)
        .manage(app.clone())
        .mount("/", routes![find, add, ready, metrics])
        .attach(AdHoc::on_liftoff("address", |rocket| {
            let config = rocket.config();
            println!("listening on {}:{}", config.address, config.port);
            Box::pin(async {})
        }))
        .launch()
        .await?;
    app.close();
    Ok(())
}

#[get("/orders/<id>")]
async fn find(app: &State<App>, id: i64) -> Result<Json<Order>, Refusal> {
    let found = app.pool.interact(move |conn| web::find(conn, id)).await??;
    Ok(Json(found.ok_or(Failure::NotFound)?))
}

#[post("/orders", data = "<item>")]
async fn add(app: &State<App>, item: String) -> Result<(Status, Json<Order>), Refusal> {
    let request = app.pool.request().label("new order");
    let order = request.interact(move |conn| web::add(conn, &item)).await??;
    Ok((Status::Created, Json(order)))
}

#[get("/ready")]
fn ready(app: &State<App>) -> Result<&'static str, (Status, String)> {
    app.is_ready().map_err(|why| (Status::ServiceUnavailable, why))
}

#[get("/metrics")]
fn metrics(app: &State<App>) -> (ContentType, String) {
    let content_type = ContentType::from_str(TEXT_CONTENT_TYPE).expect("a content type");
    (content_type, app.metrics.text())
}

/// A failure, as Rocket answers it.
struct Refusal(Failure);

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal(error.into())
    }
}

impl<'r> Responder<'r, 'static> for Refusal {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        let (status, retry_after) = self.0.status();
        let mut response = Response::build_from(self.0.to_string().respond_to(request)?);
        response.status(Status::new(status));
        if let Some(seconds) = retry_after {
            response.header(Header::new("Retry-After", seconds.to_string()));
        }
        response.ok()
    }
}
