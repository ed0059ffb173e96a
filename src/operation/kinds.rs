//! All kinds of operations, for who does not care of which kind one is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Resource, ResourceExt, api::ListParams};

use super::lease::Holder;
use crate::{
    api::{kinds::operation_kinds, operation::OperationStatus},
    context::Context,
    recipes::{Drill, Operation},
    requests::{find, is_not_there},
};

macro_rules! names {
    ($($field:ident: $kind:ty,)*) => { &[$(<$kind>::NAME,)* Drill::NAME] };
}

/// Their names, and those of what they do beside.
pub const NAMES: &[&str] = operation_kinds!(names);

/// How many operations are looked at at once.
const PAGE: u32 = 50;

/// An operation of any kind.
pub struct AnyOperation {
    pub name: String,
    pub uid: String,
    /// Name of the `Synapse` object.
    pub synapse: String,
    pub status: OperationStatus,
    /// A run of it makes old what was known of the database.
    pub changes_database: bool,
    pub newest_backup: Option<Time>,
    pub newest_verified: Option<Time>,
    kind: &'static str,
}

impl std::fmt::Display for AnyOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The name of a kind.
pub fn name<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "other",
    }
}

/// Looks at every operation of a namespace.
///
/// # Errors
/// What the API server answers.
pub async fn each(context: &Context, namespace: &str, mut look: impl FnMut(AnyOperation)) -> kube::Result<()> {
    macro_rules! look_at_each {
        ($($field:ident: $kind:ty,)*) => { $(each_of::<$kind>(context, namespace, &mut look).await?;)* };
    }
    operation_kinds!(look_at_each);
    Ok(())
}

/// Page after page: finished ones pile up, and a thousand of them at once would cost more memory than all the rest.
async fn each_of<K: Operation>(
    context: &Context,
    namespace: &str,
    look: &mut impl FnMut(AnyOperation),
) -> kube::Result<()> {
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = match api.list(&page).await {
            // Of a kind without its CRD there is none.
            Err(error) if is_not_there(&error) => return Ok(()),
            answer => answer?,
        };
        list.items.iter().map(any).for_each(&mut *look);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

fn any<K: Operation>(object: &K) -> AnyOperation {
    AnyOperation {
        kind: name::<K>(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        synapse: object.synapse().to_owned(),
        status: object.status().cloned().unwrap_or_default(),
        changes_database: K::CHANGES_DATABASE,
        newest_backup: object.newest_backup().cloned(),
        newest_verified: object.newest_verified().cloned(),
    }
}

/// The status of who holds a Lease. `None`: it is gone, replaced by another of its name, or of a kind that is not known
/// here, such as one of a newer release before a downgrade: its objects cannot be driven any more.
///
/// # Errors
/// What the API server answers.
pub async fn status_of(
    context: &Context,
    namespace: &str,
    holder: &Holder<'_>,
) -> kube::Result<Option<OperationStatus>> {
    macro_rules! of_its_kind {
        ($($field:ident: $kind:ty,)*) => {
            match holder.kind {
                $(kind if kind == name::<$kind>() => of::<$kind>(context, namespace, holder).await,)*
                _ => Ok(None),
            }
        };
    }
    operation_kinds!(of_its_kind)
}

async fn of<K: Operation>(
    context: &Context,
    namespace: &str,
    holder: &Holder<'_>,
) -> kube::Result<Option<OperationStatus>> {
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let object = find(&api, holder.name).await?.filter(|object| object.uid().as_deref() == Some(holder.uid));
    Ok(object.map(|object| object.status().cloned().unwrap_or_default()))
}
