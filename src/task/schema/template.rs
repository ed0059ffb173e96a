//! The template database, in which a superuser prepares what a restore cannot make.

use super::Place;
use crate::{
    postgres::{Explain, Locale, Result, Session},
    task::authentication::Whose,
};

/// The name of the database that a superuser may prepare. It needs no quotes.
pub fn template_for(whose: Whose) -> &'static str {
    match whose {
        Whose::Synapse => "synapse_keeper_template",
        Whose::AuthenticationService => "synapse_keeper_template_mas",
    }
}

/// The database that a superuser has prepared for what a restore cannot make: the new one is made from it.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn template(session: &mut Session, whose: Whose, locale: &Locale) -> Result<Option<String>> {
    sqlx::query_scalar(
        "SELECT datname::text FROM pg_database d WHERE datname = $1 AND datistemplate \
             AND pg_encoding_to_char(encoding) = $2 AND datcollate = $3 AND datctype = $4 \
             AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = $5",
    )
    .bind(template_for(whose))
    .bind(&locale.encoding)
    .bind(&locale.collate)
    .bind(&locale.ctype)
    .bind(match locale.locale_provider.as_deref() {
        Some("icu") => "i",
        Some("builtin") => "b",
        _ => "c",
    })
    .fetch_optional(&mut session.connection)
    .await
    .explain("looking for a template")
}

/// Where a superuser can put what our role cannot make, for a database beside the one that serves.
pub fn place_beside(whose: Whose, locale: &Locale, version: i32) -> Place {
    let name = template_for(whose).to_owned();
    Place::Template { creation: locale.creation(&name, None, version), name }
}
