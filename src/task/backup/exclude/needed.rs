//! What of the rest of a database depends on what is left out, by PostgreSQL's own list of dependencies (`pg_depend`). A restore could not
//! make it.

use super::Excluded;
use crate::postgres::{Explain, Result, Session};

/// Such as `view public.portals needs table bridge.portal`. What belongs to a relation that is left out goes with it: its indexes,
/// constraints, defaults, triggers. `pg_dump` itself leaves out casts, publications and default privileges of what it leaves out.
pub async fn find(session: &mut Session, excluded: &Excluded) -> Result<Vec<String>> {
    if excluded.relations.is_empty() && excluded.schemas.is_empty() {
        return Ok(Vec::new());
    }
    let schemas: Vec<i64> = excluded.schemas.iter().map(|schema| schema.oid).collect();
    sqlx::query_scalar(
        "WITH relations AS (\
             SELECT unnest($1)::oid AS oid \
             UNION SELECT oid FROM pg_class WHERE relnamespace::int8 = ANY ($2) AND relkind = 'c'), \
         types AS (\
             SELECT oid, typarray FROM pg_type WHERE typrelid IN (SELECT oid FROM relations) OR typnamespace::int8 = ANY ($2)), \
         members AS (\
             SELECT 'pg_class'::regclass::oid AS class, oid FROM relations \
             UNION SELECT 'pg_type'::regclass, oid FROM types \
             UNION SELECT 'pg_type'::regclass, typarray FROM types WHERE typarray <> 0 \
             UNION SELECT 'pg_namespace'::regclass, unnest($2)::oid \
             UNION SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprnamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_opclass'::regclass, oid FROM pg_opclass WHERE opcnamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily WHERE opfnamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_collation'::regclass, oid FROM pg_collation WHERE collnamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_conversion'::regclass, oid FROM pg_conversion WHERE connamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config WHERE cfgnamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict WHERE dictnamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_ts_parser'::regclass, oid FROM pg_ts_parser WHERE prsnamespace::int8 = ANY ($2) \
             UNION SELECT 'pg_ts_template'::regclass, oid FROM pg_ts_template WHERE tmplnamespace::int8 = ANY ($2)), \
         dependents AS (\
             SELECT DISTINCT d.classid, d.objid, d.refclassid, d.refobjid \
             FROM pg_depend d JOIN members m ON m.class = d.refclassid AND m.oid = d.refobjid \
             WHERE NOT EXISTS (SELECT FROM members o WHERE o.class = d.classid AND o.oid = d.objid) \
                 AND d.classid IN ('pg_class'::regclass, 'pg_rewrite'::regclass, 'pg_constraint'::regclass, 'pg_trigger'::regclass, \
                     'pg_attrdef'::regclass, 'pg_policy'::regclass, 'pg_statistic_ext'::regclass, 'pg_proc'::regclass, \
                     'pg_type'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass, \
                     'pg_collation'::regclass, 'pg_extension'::regclass, 'pg_ts_config'::regclass, 'pg_ts_dict'::regclass)), \
         owned AS (\
             SELECT d.*, CASE \
                 WHEN d.classid = 'pg_rewrite'::regclass THEN (SELECT ev_class FROM pg_rewrite WHERE oid = d.objid) \
                 WHEN d.classid = 'pg_constraint'::regclass THEN (SELECT conrelid FROM pg_constraint WHERE oid = d.objid) \
                 WHEN d.classid = 'pg_trigger'::regclass THEN (SELECT tgrelid FROM pg_trigger WHERE oid = d.objid) \
                 WHEN d.classid = 'pg_attrdef'::regclass THEN (SELECT adrelid FROM pg_attrdef WHERE oid = d.objid) \
                 WHEN d.classid = 'pg_policy'::regclass THEN (SELECT polrelid FROM pg_policy WHERE oid = d.objid) \
                 WHEN d.classid = 'pg_statistic_ext'::regclass THEN (SELECT stxrelid FROM pg_statistic_ext WHERE oid = d.objid) \
                 WHEN d.classid = 'pg_class'::regclass THEN \
                     coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = d.objid), d.objid) \
                 ELSE 0 END AS relation \
             FROM dependents d), \
         needed AS (\
             SELECT o.refclassid, o.refobjid, \
                 CASE WHEN r.rulename = '_RETURN' THEN 'pg_class'::regclass::oid ELSE o.classid END AS classid, \
                 CASE WHEN r.rulename = '_RETURN' THEN o.relation ELSE o.objid END AS objid \
             FROM owned o LEFT JOIN pg_rewrite r ON o.classid = 'pg_rewrite'::regclass AND r.oid = o.objid \
             WHERE o.relation NOT IN (SELECT oid FROM relations) \
                 AND NOT (o.classid = 'pg_class'::regclass AND (SELECT relkind FROM pg_class WHERE oid = o.objid) = 't') \
                 AND NOT (o.classid = 'pg_trigger'::regclass AND (SELECT tgisinternal FROM pg_trigger WHERE oid = o.objid)) \
                 AND NOT (o.classid = 'pg_constraint'::regclass \
                     AND (SELECT contypid IN (SELECT oid FROM types) FROM pg_constraint WHERE oid = o.objid))) \
         SELECT DISTINCT format('%s %s needs %s %s', who.type, who.identity, what.type, what.identity) \
         FROM needed n, pg_identify_object(n.classid, n.objid, 0) who, pg_identify_object(n.refclassid, n.refobjid, 0) what ORDER BY 1",
    )
    .bind(excluded.oids())
    .bind(schemas)
    .fetch_all(&mut session.connection)
    .await
    .explain("looking what needs what spec.exclude leaves out")
}
