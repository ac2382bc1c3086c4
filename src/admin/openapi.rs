//! The OpenAPI document, made from the handlers and from the table of doors, so that it cannot drift from them.

use serde_json::Value;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::admin::auth::Access;
use crate::admin::respond::{ErrorAnswer, ErrorBody};
use crate::admin::{DOORS, State};
use crate::unit::version::VERSION;

/// The name of the security scheme.
pub const SCHEME: &str = "admin_token";

/// The whole document as JSON.
pub fn document() -> Value {
    let router = DOORS.iter().fold(OpenApiRouter::with_openapi(frame()), |router, (access, routes)| {
        router.routes(declare(*access, routes()))
    });
    // A document holds only texts, numbers and maps with text keys, which always serialise.
    let mut document = serde_json::to_value(router.into_openapi()).unwrap_or_default();
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas") {
        // Its parts are described inside it.
        schemas.remove("RouteMatch");
        schemas.remove("SplitConfig");
        schemas.insert("RouteConfig".to_owned(), crate::admin::routes::route_schema());
        schemas.insert("LimitCreate".to_owned(), crate::admin::limits::create_schema());
        schemas.insert("LimitPatch".to_owned(), crate::admin::limits::patch_schema());
    }
    document
}

fn frame() -> OpenApi {
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An admin token; `marg admin token create` makes one."))
        .build();
    let mut document = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Marg admin API")
                .version(VERSION)
                .description(Some(
                    "Keys, organisations, teams, users, limits, the request log, routes, providers and administrators of one gateway. \
                     The scopes of an operation are the roles that may use it.",
                ))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
                .build(),
        )
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
    let mut schemas = Vec::new();
    <ErrorAnswer as utoipa::ToSchema>::schemas(&mut schemas);
    schemas.push(("ErrorAnswer".to_owned(), <ErrorAnswer as utoipa::PartialSchema>::schema()));
    schemas.push(("ErrorBody".to_owned(), <ErrorBody as utoipa::PartialSchema>::schema()));
    components.schemas.extend(schemas);
    document
}

/// Adds to a declaration what follows from its access and its shape: the roles, and the answers of the guard and of the
/// readers of query, path and body.
fn declare(access: Access, mut routes: UtoipaMethodRouter<State>) -> UtoipaMethodRouter<State> {
    for item in routes.1.paths.values_mut() {
        for operation in operations(item) {
            complete(access, operation);
        }
    }
    routes
}

/// The operations of a path.
pub fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}

fn complete(access: Access, operation: &mut Operation) {
    refusal(operation, "400", "The request cannot be understood.");
    refusal(operation, "500", "A defect of this gateway.");
    if !access.roles().is_empty() {
        let roles = access.roles().iter().map(|role| role.as_str());
        let mut security = vec![SecurityRequirement::new(SCHEME, roles)];
        if matches!(access, Access::Metrics | Access::Tiles) {
            security.push(SecurityRequirement::default());
        }
        operation.security = Some(security);
        refusal(operation, "401", "The admin token is missing or wrong.");
        refusal(operation, "403", "The role of the admin token may not do this.");
        refusal(operation, "429", "Too many wrong tokens came from this address.");
        refusal(operation, "503", "The database is away.");
    }
    if operation.request_body.is_some() {
        refusal(operation, "408", "The body took too long to arrive.");
        refusal(operation, "413", "The body is too large.");
        refusal(operation, "415", "The body is not JSON.");
    }
}

/// Adds an answer in the one error shape, unless the handler describes that status itself.
fn refusal(operation: &mut Operation, status: &str, description: &str) {
    let mut answer = ResponseBuilder::new().description(description);
    answer = answer.content("application/json", Content::new(Some(Ref::from_schema_name("ErrorAnswer"))));
    if status == "429" {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
        answer = answer.header("retry-after", HeaderBuilder::new().schema(Some(seconds)).build());
    }
    operation.responses.responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(answer.build()));
}

/// Whether an operation takes any query parameter.
pub fn takes_query(operation: &Operation) -> bool {
    let parameters = operation.parameters.iter().flatten();
    parameters.into_iter().any(|parameter| match parameter {
        RefOr::T(parameter) => matches!(parameter.parameter_in, ParameterIn::Query),
        RefOr::Ref(_) => true,
    })
}
