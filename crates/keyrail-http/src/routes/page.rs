//! Pages: every list is cut, and says where it goes on.

use std::cmp::Ordering;

use keyrail_data::ops::asset::AssetView;
use keyrail_data::ops::campaign::CampaignView;
use keyrail_engine::EngineError;
use keyrail_engine::ops::PAGE_LEN_MAX;
use keyrail_engine::ops::app::AppView;
use keyrail_engine::ops::domain::DomainView;
use keyrail_engine::ops::label::LabelView;
use keyrail_engine::ops::token::TokenView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::Type;

use crate::api::Parameter;
use crate::call::Call;
use crate::problem::Failure;

/// How many things one page has, unless the caller says so.
const PAGE_LEN_DEFAULT: usize = 100;

/// The parameters of a list.
pub(crate) const PAGE: &[Parameter] = &[LIMIT, AFTER];

pub(crate) const LIMIT: Parameter =
    Parameter { name: "limit", about: "How many at most: 1 to 1000, 100 if left out.", kind: Type::Integer };

pub(crate) const AFTER: Parameter = Parameter {
    name: "after",
    about: "Only what comes after this: the `next` of the page before.",
    kind: Type::String,
};

/// Which page.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    after: Option<String>,
    limit: Option<usize>,
}

/// How long a page may be.
pub(crate) fn page_len(call: &Call, limit: Option<usize>) -> Result<usize, Failure> {
    let limit = limit.unwrap_or(PAGE_LEN_DEFAULT);
    if (1..=PAGE_LEN_MAX).contains(&limit) {
        return Ok(limit);
    }
    let problem = format!("`limit` is {limit}, and may be from 1 to {PAGE_LEN_MAX}");
    Err(call.fail(EngineError::Invalid { problem, hint: "ask for several pages: each tells where the next begins" }))
}

/// In which order a list is shown, by the text that a page goes on after.
#[derive(Clone, Copy)]
enum Order {
    Rising,
    Falling,
}

/// The page of a list, and where the next one begins.
fn page<T>(
    mut rows: Vec<T>,
    order: Order,
    key: impl Fn(&T) -> String,
    query: &PageQuery,
    len: usize,
) -> (Vec<T>, Option<String>) {
    let compare = |one: &str, other: &str| match order {
        Order::Rising => one.cmp(other),
        Order::Falling => other.cmp(one),
    };
    if let Some(after) = &query.after {
        rows.retain(|row| compare(&key(row), after) == Ordering::Greater);
    }
    rows.sort_by(|one, other| compare(&key(one), &key(other)));
    let more = rows.len() > len;
    rows.truncate(len);
    let next = rows.last().filter(|_| more).map(key);
    (rows, next)
}

macro_rules! pages {
    ($($(#[$meta:meta])* $name:ident: $field:ident of $view:ty, $order:ident by $key:expr;)+) => {$(
        $(#[$meta])*
        #[derive(Serialize, ToSchema)]
        pub(crate) struct $name {
            /// What is on the page.
            $field: Vec<$view>,
            /// Where the next page begins, if there is one: to be sent as `after`.
            next: Option<String>,
        }

        impl $name {
            pub(crate) fn cut(rows: Vec<$view>, query: &PageQuery, call: &Call) -> Result<Self, Failure> {
                let len = page_len(call, query.limit)?;
                let ($field, next) = page(rows, Order::$order, $key, query, len);
                Ok(Self { $field, next })
            }
        }
    )+};
}

pages! {
    /// Domains, by name.
    DomainPage: domains of DomainView, Rising by |row| row.name.to_string();
    /// Apps, by path.
    AppPage: apps of AppView, Rising by |row| row.path.to_string();
    /// Labels, by name.
    LabelPage: labels of LabelView, Rising by |row| row.name.to_string();
    /// Tokens, newest first.
    TokenPage: tokens of TokenView, Falling by |row| format!("{}.{}", row.created_at, row.id);
    /// Assets, by name.
    AssetPage: assets of AssetView, Rising by |row| row.name.to_string();
    /// Campaigns, newest first.
    CampaignPage: campaigns of CampaignView, Falling by |row| format!("{}.{}", row.started_at, row.id);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(after: Option<&str>, len: usize, order: Order) -> (Vec<u8>, Option<String>) {
        let query = PageQuery { after: after.map(str::to_owned), limit: None };
        page(vec![3, 1, 5, 2, 4], order, u8::to_string, &query, len)
    }

    #[test]
    fn pages_follow_each_other_until_the_end() {
        assert_eq!(cut(None, 2, Order::Rising), (vec![1, 2], Some("2".to_owned())));
        assert_eq!(cut(Some("2"), 2, Order::Rising), (vec![3, 4], Some("4".to_owned())));
        assert_eq!(cut(Some("4"), 2, Order::Rising), (vec![5], None));
        assert_eq!(cut(None, 5, Order::Rising).1, None, "a full last page has no next");
        assert_eq!(cut(Some("4"), 2, Order::Falling), (vec![3, 2], Some("2".to_owned())));
        assert_eq!(cut(Some("zzz"), 2, Order::Rising), (vec![], None));
    }
}
