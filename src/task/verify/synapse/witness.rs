//! Somebody of the restored homeserver, in whose name Synapse is asked, and what the database knows of them.
//!
//! The database is thrown away afterwards: it is changed as it suits the drill.

use std::io::Read;

use crate::{
    contract::TaskError,
    postgres::{Explain, Result, Session, Target, relations},
    synapse::database::{self, Tables},
};

/// What is known before Synapse runs.
#[derive(Debug)]
pub struct Witness {
    /// `None`: the homeserver has no user who may log in.
    pub person: Option<Person>,
    /// The version of the schema.
    schema: Option<i32>,
}

/// A user of the homeserver.
#[derive(Debug)]
pub struct Person {
    pub id: String,
    /// An access token for this drill.
    pub token: String,
    /// In how many rooms they are.
    pub rooms: i64,
    /// The newest that they sent to a room in which they are.
    pub newest: Option<Event>,
}

/// An event, as a client sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub room: String,
    pub type_: String,
    /// How many are in its room.
    pub members: i64,
}

/// Of the homeserver's own who may log in, who is in most rooms. Columns that came later with Synapse's releases are asked for
/// by name, so that they may be missing.
const PERSON: &str = "SELECT u.name FROM users u \
    LEFT JOIN local_current_membership m ON m.user_id = u.name AND m.membership = 'join' \
    WHERE u.deactivated = 0 AND u.is_guest = 0 AND substr(u.name, strpos(u.name, ':') + 1) = $1 \
    AND NOT coalesce((to_jsonb(u) ->> 'locked')::boolean, false) \
    AND NOT coalesce((to_jsonb(u) ->> 'suspended')::boolean, false) \
    GROUP BY u.name ORDER BY count(m.room_id) DESC, u.name LIMIT 1";

/// Where Synapse itself looks for the rooms of a user, and for the members of a room.
const ROOMS: &str = "SELECT count(*) FROM current_state_events \
    WHERE type = 'm.room.member' AND membership = 'join' AND state_key = $1";

impl Witness {
    /// Finds somebody, and gives them an access token. What Synapse would do by itself at its start, such as to purge a room, is
    /// struck off.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn call(database: &Target, server_name: &str) -> Result<Self> {
        let mut session = database.connect().await?;
        session.execute("SET statement_timeout = 0").await.explain("setting the statement's time")?;
        let tables = relations::tables(&mut session).await?;
        let tables: Tables = tables.iter().map(|table| table.name.as_str()).collect();
        if tables.contains("scheduled_tasks") {
            session.execute("DELETE FROM scheduled_tasks").await.explain("striking off scheduled tasks")?;
        }
        let schema = database::schema_version(&mut session, &tables).await?.map(|schema| schema.version);
        let id: Option<String> = sqlx::query_scalar(PERSON)
            .bind(server_name)
            .fetch_optional(&mut session.connection)
            .await
            .explain("looking for a user")?;
        let person = match id {
            Some(id) => Some(Person::call(&mut session, &tables, id).await?),
            None => None,
        };
        Ok(Self { person, schema })
    }

    /// What there is to say of the schema, if Synapse has brought it further.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn schema_upgraded(&self, database: &Target) -> Result<String> {
        let mut session = database.connect().await?;
        let now = database::schema_version(&mut session, &Tables::from(["schema_version"])).await?;
        Ok(match (self.schema, now.map(|schema| schema.version)) {
            (Some(before), Some(now)) if before != now => format!(", brings its schema from {before} to {now}"),
            _ => String::new(),
        })
    }
}

impl Person {
    async fn call(session: &mut Session, tables: &Tables<'_>, id: String) -> Result<Self> {
        let token = token()?;
        sqlx::query(
            "INSERT INTO access_tokens (id, user_id, token) SELECT coalesce(max(id), 0) + 1, $1, $2 FROM access_tokens",
        )
        .bind(&id)
        .bind(&token)
        .execute(&mut session.connection)
        .await
        .explain("giving a user an access token")?;
        let rooms = sqlx::query_scalar(ROOMS)
            .bind(&id)
            .fetch_one(&mut session.connection)
            .await
            .explain("counting a user's rooms")?;
        let newest = newest(session, tables, &id).await?;
        Ok(Self { id, token, rooms, newest })
    }
}

/// What somebody sent they may also read. Synapse waits with rooms that are still being joined.
async fn newest(session: &mut Session, tables: &Tables<'_>, person: &str) -> Result<Option<Event>> {
    let mut sql = "SELECT e.event_id, e.room_id, e.type, (SELECT count(*) FROM current_state_events s \
         WHERE s.room_id = e.room_id AND s.type = 'm.room.member' AND s.membership = 'join') \
         FROM current_state_events c JOIN events e ON e.room_id = c.room_id AND e.sender = $1 \
         WHERE c.type = 'm.room.member' AND c.membership = 'join' AND c.state_key = $1 \
         AND NOT e.outlier AND e.stream_ordering > 0 \
         AND NOT EXISTS (SELECT FROM rejections r WHERE r.event_id = e.event_id)"
        .to_owned();
    if tables.contains("partial_state_rooms") {
        sql += " AND NOT EXISTS (SELECT FROM partial_state_rooms p WHERE p.room_id = e.room_id)";
    }
    sql += " ORDER BY e.stream_ordering DESC LIMIT 1";
    let found: Option<(String, String, String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(person)
        .fetch_optional(&mut session.connection)
        .await
        .explain("looking for the newest that a user sent")?;
    Ok(found.map(|(id, room, type_, members)| Event { id, room, type_, members }))
}

/// Nobody else can reach this Synapse, and nobody should have to believe it.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| TaskError::transient("NoScratchSpace", format!("There are no random bytes: {error}.")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
