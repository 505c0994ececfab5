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
    method: HttpMethod,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: &'static [Parameter],
    headers: &'static [Parameter],
    caller: WhoMayCall,
    /// The statuses under which the ordinary answer comes.
    statuses: &'static [&'static str],
}

/// A parameter of the query or a header.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Type,
}

/// Whether a route asks for a token.
#[derive(Clone, Copy, Eq, PartialEq)]
enum WhoMayCall {
    Anybody,
    WithToken,
}

const IDEMPOTENCY_KEY: Parameter = Parameter {
    name: "Idempotency-Key",
    about: "A text of at most 128 bytes: a change that is asked for again under it within a day is made once.",
    kind: Type::String,
};

const IF_MATCH: Parameter = Parameter {
    name: "If-Match",
    about: "The ETag of a former answer: the change is refused with 412 if the thing has changed since.",
    kind: Type::String,
};

impl About {
    /// Parameters of the query.
    pub(crate) const fn query(mut self, parameters: &'static [Parameter]) -> Self {
        self.query = parameters;
        self
    }

    /// A change that is made once under an idempotency key.
    pub(crate) const fn once(mut self) -> Self {
        self.headers = &[IDEMPOTENCY_KEY];
        self
    }

    /// A change of a thing with an ETag, made once under an idempotency key.
    pub(crate) const fn once_if_match(mut self) -> Self {
        self.headers = &[IDEMPOTENCY_KEY, IF_MATCH];
        self
    }

    /// A route that asks for no token.
    pub(crate) const fn open(mut self) -> Self {
        self.caller = WhoMayCall::Anybody;
        self
    }

    /// A route that tells how the service is, to anybody, with its ordinary answer also if that is not well.
    pub(crate) const fn health(mut self) -> Self {
        self.statuses = &["200", "503"];
        self.open()
    }
}

macro_rules! abouts {
    ($($name:ident $method:ident,)+) => {
        impl About {
            $(pub(crate) const fn $name(path: &'static str, id: &'static str, summary: &'static str) -> Self {
                let (query, headers): (&[Parameter], &[Parameter]) = (&[], &[]);
                Self { method: HttpMethod::$method, path, id, summary, query, headers, caller: WhoMayCall::WithToken, statuses: &["200"] }
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
        self.describe::<B, A>(&about);
        self
    }

    /// Describes a route.
    fn describe<B: ToSchema + 'static, A: ToSchema + 'static>(&mut self, about: &About) {
        let mut operation = OperationBuilder::new().operation_id(Some(about.id)).summary(Some(about.summary));
        for parameter in all_parameters(about) {
            operation = operation.parameter(parameter);
        }
        if about.caller == WhoMayCall::Anybody {
            operation = operation.securities(Some([SecurityRequirement::default()]));
        }
        if let Some(content) = self.content::<B>() {
            operation = operation.request_body(Some(
                RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True)).build(),
            ));
        }
        let done = match self.content::<A>() {
            Some(content) => ResponseBuilder::new().description("done").content("application/json", content),
            None => ResponseBuilder::new().description("done"),
        }
        .build();
        let problem = ContentBuilder::new().schema(Some(utoipa::openapi::Ref::from_schema_name("Problem"))).build();
        let failed =
            ResponseBuilder::new().description("refused or failed").content("application/problem+json", problem);
        for status in about.statuses {
            operation = operation.response(*status, done.clone());
        }
        operation = operation.response("default", failed);
        let item = PathItem::new(about.method.clone(), operation);
        match self.items.get_mut(about.path) {
            Some(there) => there.merge_operations(item),
            None => {
                self.items.insert(about.path.to_owned(), item);
            }
        }
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

    pub(crate) fn finish(mut self) -> (Router<S>, OpenApi) {
        self.describe::<Nothing, Nothing>(&About::get(DOCUMENT_PATH, "openapi", "This document").open());
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

/// What a route takes besides a body.
fn all_parameters(about: &About) -> impl Iterator<Item = ParameterBuilder> {
    let schema = |kind: &Type| Some(ObjectBuilder::new().schema_type(kind.clone()));
    let optional = move |place: ParameterIn, parameters: &'static [Parameter]| {
        parameters.iter().map(move |parameter| {
            let built = ParameterBuilder::new().name(parameter.name).parameter_in(place.clone());
            built.description(Some(parameter.about)).required(Required::False).schema(schema(&parameter.kind))
        })
    };
    let path = path_parameters(about.path).map(move |name| {
        let built = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
        built.required(Required::True).schema(schema(&Type::String))
    });
    path.chain(optional(ParameterIn::Query, about.query)).chain(optional(ParameterIn::Header, about.headers))
}

/// The parameters of a path like `/v1/keys/{domain}`.
fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}
