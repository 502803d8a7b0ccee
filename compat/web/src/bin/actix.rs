//! Orders in actix-web. It needs `actix-web`, `fairpool`, `fairpool-postgres` and
//! `fairpool-prometheus`.

use std::error::Error;
use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpServer, ResponseError, get, post, web as http};
use fairpool_prometheus::TEXT_CONTENT_TYPE;
use web::{App, Failure, Order};

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = http::Data::new(App::open()?);
    let data = app.clone();
    let server = HttpServer::new(move || {
        let app = actix_web::App::new().app_data(data.clone());
        app.service(find).service(add).service(ready).service(metrics)
    })
    // By itself it would end requests that run at Ctrl-C.
    .shutdown_signal(web::stopped())
    .bind(("127.0.0.1", web::port()))?;
    println!("listening on {}", server.addrs()[0]);
    server.run().await?;
    app.close();
    Ok(())
}

#[get("/orders/{id}")]
async fn find(app: http::Data<App>, id: http::Path<i64>) -> Result<http::Json<Order>, Refusal> {
    let mut conn = app.pool.get_async().await?;
    let found = http::block(move || web::find(&mut conn, *id));
    let found = found.await.map_err(|_| Failure::NoThread)??;
    Ok(http::Json(found.ok_or(Failure::NotFound)?))
}

#[post("/orders")]
async fn add(app: http::Data<App>, item: String) -> Result<HttpResponse, Refusal> {
    let mut conn = app.pool.request().label("new order").get_async().await?;
    let order = http::block(move || web::add(&mut conn, &item));
    let order = order.await.map_err(|_| Failure::NoThread)??;
    Ok(HttpResponse::Created().json(order))
}

#[get("/ready")]
async fn ready(app: http::Data<App>) -> HttpResponse {
    match app.is_ready() {
        Ok(ready) => HttpResponse::Ok().body(ready),
        Err(why) => HttpResponse::ServiceUnavailable().body(why),
    }
}

#[get("/metrics")]
async fn metrics(app: http::Data<App>) -> HttpResponse {
    HttpResponse::Ok().content_type(TEXT_CONTENT_TYPE).body(app.metrics.text())
}

/// A failure, as actix-web answers it.
#[derive(Debug)]
struct Refusal(Failure);

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal(error.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status().0).expect("a status")
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let (_, Some(seconds)) = self.0.status() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        response.body(self.to_string())
    }
}
