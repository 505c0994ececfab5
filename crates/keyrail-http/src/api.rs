//! Routes and their description in one place: what is routed is documented.

use std::collections::BTreeMap;

use axum::Router;
use axum::routing::MethodRouter;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, PathItem, RefOr, Required,
    Type,
};
use utoipa::{PartialSchema, ToSchema};

use crate::problem::Problem;

/// Where the document is served.
pub const DOCUMENT_PATH: &str = "/v1/openapi.json";

/// The OpenAPI 3.1 document of the API.
pub fn document() -> OpenApi {
    crate::routes::api().1
}

/// A body or answer that has no content.
#[derive(ToSchema)]
pub(crate) struct Nothing {}

/// Collects routes and their description.
pub(crate) struct Api<S> {
    router: Router<S>,
    items: BTreeMap<String, PathItem>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// What is said about a route.
pub(crate) struct About {
    pub(crate) method: HttpMethod,
    pub(crate) path: &'static str,
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
}

macro_rules! abouts {
    ($($name:ident $method:ident,)+) => {
        impl About {
            $(pub(crate) const fn $name(path: &'static str, id: &'static str, summary: &'static str) -> Self {
                Self { method: HttpMethod::$method, path, id, summary }
            })+
        }
    };
}

abouts! {
    get Get,
    post Post,
    patch Patch,
    put Put,
    delete Delete,
}

impl<S: Clone + Send + Sync + 'static> Api<S> {
    pub(crate) fn new() -> Self {
        let mut api = Self { router: Router::new(), items: BTreeMap::new(), schemas: Vec::new() };
        api.schema::<Problem>();
        api
    }

    /// Adds a route that takes a `B` and answers with an `A`.
    pub(crate) fn route<B: ToSchema + 'static, A: ToSchema + 'static>(
        mut self,
        about: About,
        handler: MethodRouter<S>,
    ) -> Self {
        self.router = self.router.route(about.path, handler);
        let mut operation = OperationBuilder::new().operation_id(Some(about.id)).summary(Some(about.summary));
        for name in parameters(about.path) {
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
            operation = operation.parameter(parameter);
        }
        if let Some(content) = self.content::<B>() {
            operation = operation.request_body(Some(
                RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True)).build(),
            ));
        }
        let done = match self.content::<A>() {
            Some(content) => ResponseBuilder::new().description("done").content("application/json", content),
            None => ResponseBuilder::new().description("done"),
        };
        let problem = ContentBuilder::new().schema(Some(utoipa::openapi::Ref::from_schema_name("Problem"))).build();
        let failed =
            ResponseBuilder::new().description("refused or failed").content("application/problem+json", problem);
        operation = operation.response("200", done).response("default", failed);
        let item = PathItem::new(about.method, operation);
        match self.items.get_mut(about.path) {
            Some(there) => there.merge_operations(item),
            None => {
                self.items.insert(about.path.to_owned(), item);
            }
        }
        self
    }

    /// The content of a type; nothing for [`Nothing`].
    fn content<T: ToSchema + 'static>(&mut self) -> Option<utoipa::openapi::Content> {
        if std::any::TypeId::of::<T>() == std::any::TypeId::of::<Nothing>() {
            return None;
        }
        let reference = self.schema::<T>();
        Some(ContentBuilder::new().schema(Some(reference)).build())
    }

    /// Adds the schema of a type and of all types in it.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        let name = T::name().into_owned();
        self.schemas.push((name.clone(), <T as PartialSchema>::schema()));
        utoipa::openapi::Ref::from_schema_name(name).into()
    }

    pub(crate) fn finish(self) -> (Router<S>, OpenApi) {
        let paths = self.items.into_iter().fold(PathsBuilder::new(), |paths, (path, item)| paths.path(path, item));
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = ComponentsBuilder::new().schemas_from_iter(self.schemas).security_scheme("token", bearer);
        let info = InfoBuilder::new()
            .title("Keyrail")
            .version(env!("CARGO_PKG_VERSION"))
            .description(Some("Keys that turn, and data that follows."));
        let document = OpenApiBuilder::new()
            .info(info)
            .paths(paths)
            .components(Some(components.build()))
            .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]))
            .build();
        (self.router, document)
    }
}

/// The parameters of a path like `/v1/keys/{domain}`.
fn parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}
