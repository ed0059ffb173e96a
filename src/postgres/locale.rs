//! A database's locale, and the statement that makes another database with the same one.

use serde::{Deserialize, Serialize};

use super::{Explain, Result, Session};
use crate::quote;

/// `LOCALE_PROVIDER` is new in PostgreSQL 15; without it a cluster that was made with ICU would give it to every database.
const PROVIDER_SINCE: i32 = 150_000;

/// How a database stores and compares text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Locale {
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// Who compares: `icu` or `builtin`. `None`: the C library, by [`Self::collate`] and [`Self::ctype`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale_provider: Option<String>,
    /// The provider's own name of the locale, such as `de-DE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_locale: Option<String>,
}

impl Locale {
    /// By the C library, with one name for both.
    pub fn libc(encoding: &str, locale: &str) -> Self {
        let (collate, ctype) = (locale.to_owned(), locale.to_owned());
        Self { encoding: encoding.to_owned(), collate, ctype, locale_provider: None, provider_locale: None }
    }

    /// That of the session's database.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn read(session: &mut Session) -> Result<Self> {
        type Row = (String, String, String, Option<String>, Option<String>);
        // The columns of the providers came one after the other, under several names: as JSON they may be missing.
        let (encoding, collate, ctype, provider, provider_locale): Row = sqlx::query_as(
            "SELECT pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, \
                 CASE to_jsonb(d) ->> 'datlocprovider' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' END, \
                 coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') \
             FROM pg_database d WHERE datname = current_database()",
        )
        .fetch_one(&mut session.connection)
        .await
        .explain("reading the locale of the database")?;
        Ok(Self { encoding, collate, ctype, locale_provider: provider, provider_locale })
    }

    /// Encoding, collation and ctype. Where ICU compares, its locale is the collation: that of the C library sorts nothing then. The
    /// provider `builtin` compares code points, as `C` does.
    pub fn sorts(self) -> (String, String, String) {
        let Self { encoding, collate, ctype, locale_provider, provider_locale } = self;
        let collate = match (locale_provider.as_deref(), provider_locale) {
            (Some("icu"), Some(locale)) => format!("icu {locale}"),
            _ => collate,
        };
        (encoding, collate, ctype)
    }

    /// Whether the server can make such a database, as far as it tells: it lists the locales that its C library had when it
    /// was last asked to look.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn is_known(&self, session: &mut Session) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_database WHERE datcollate = $1 AND datctype = $2) \
                 OR (SELECT count(DISTINCT collcollate) FROM pg_collation WHERE collcollate IN ($1, $2)) \
                     = (SELECT count(DISTINCT name) FROM unnest(ARRAY[$1, $2]) name)",
        )
        .bind(&self.collate)
        .bind(&self.ctype)
        .fetch_one(&mut session.connection)
        .await
        .explain("looking which locales the server knows")
    }

    /// The statement that makes an empty database with it, on a server of this version (`server_version_num`). `owner`:
    /// without it, the role that makes it.
    pub fn creation(&self, name: &str, owner: Option<&str>, version: i32) -> String {
        self.creation_from("template0", name, owner, version)
    }

    /// The same from another template, which has this locale.
    pub fn creation_from(&self, template: &str, name: &str, owner: Option<&str>, version: i32) -> String {
        let owner = owner.map(|owner| format!(" OWNER {}", quote::ident(owner))).unwrap_or_default();
        let [encoding, collate, ctype] = [&self.encoding, &self.collate, &self.ctype].map(|text| quote::literal(text));
        let provider = match (&self.locale_provider, &self.provider_locale) {
            (Some(provider), Some(locale)) => {
                format!(" LOCALE_PROVIDER {provider} {provider}_LOCALE {}", quote::literal(locale))
            }
            _ if version >= PROVIDER_SINCE => " LOCALE_PROVIDER libc".to_owned(),
            _ => String::new(),
        };
        format!(
            "CREATE DATABASE {}{owner} TEMPLATE {template} ENCODING {encoding} LC_COLLATE {collate} LC_CTYPE {ctype}{provider}",
            quote::ident(name)
        )
    }
}

impl std::fmt::Display for Locale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}, {}", self.encoding, self.collate, self.ctype)?;
        let provider = self.locale_provider.iter().zip(&self.provider_locale);
        provider.into_iter().try_for_each(|(provider, locale)| write!(f, ", {provider} {locale}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_made_with_the_locale_of_another() {
        let english = Locale::libc("UTF8", "en_US.utf8");
        let statement = english.creation("mas", Some("mas"), 140_000);
        assert!(statement.ends_with("ENCODING 'UTF8' LC_COLLATE 'en_US.utf8' LC_CTYPE 'en_US.utf8'"), "{statement}");
        assert!(english.creation("mas", None, 150_000).ends_with(" LOCALE_PROVIDER libc"));
        let (provider, locale) = (Some("icu".to_owned()), Some("de-DE".to_owned()));
        let german = Locale { locale_provider: provider, provider_locale: locale, ..english };
        let statement = german.creation("mas", None, 160_000);
        assert!(statement.ends_with(" LOCALE_PROVIDER icu icu_LOCALE 'de-DE'"), "{statement}");
        assert_eq!(german.to_string(), "UTF8, en_US.utf8, en_US.utf8, icu de-DE");
    }
}
