//! How the API server and its admission webhooks refuse a request, wherever that is quoted.

use run_record::Code;

use super::table::{Row, row};
use crate::world::kubernetes::answers::UNCHECKED;

/// What admission webhooks say, and the API server about them. Checked before [`API_ANSWERS`] and
/// [`HELM_FIRST`](super::helm::HELM_FIRST): a webhook quotes anything, for example the registry of
/// an image that it verifies.
pub(super) const WEBHOOKS: &[Row] = &[
    row(Code::WebhookUnavailable, UNCHECKED),
    row(
        Code::WebhookDenied,
        &[&["admission webhook", "denied the request"], &["validatingadmissionpolicy", "denied request"]],
    ),
    row(
        Code::WebhookUnavailable,
        &[
            &["failed calling webhook"],
            &["failed to call webhook"],
            &["conversion webhook for"],
            &["webhook", "does not support dry run"],
            // All webhooks together took longer than the request may.
            &["admission plugin", "failed to complete"],
        ],
    ),
];

/// The text of an API server's Status, wherever it is quoted.
pub(super) const API_ANSWERS: &[Row] = &[
    row(
        Code::ReleaseTooLarge,
        &[
            &["sh.helm.release", "too long: "],
            &["request is too large"],
            &["request entity too large"],
            &["trying to send message larger than max"],
            &["trying to send message larger"],
        ],
    ),
    row(Code::DiskFull, &[&["database space exceeded"], &["etcdserver: no space"], &["database or disk is full"]]),
    row(
        Code::FieldConflict,
        &[&["apply failed with", "conflict"], &["conflicts with \""], &["conflict with \"", " using "]],
    ),
    row(
        Code::PodSecurity,
        &[
            &["violates podsecurity"],
            &["unable to validate against any security context constraint"],
            &["unable to validate against any pod security policy"],
            &["podsecuritypolicy:"],
            &["forbidden sysctl"],
        ],
    ),
    row(Code::NamespaceTerminating, &[&["because it is being terminated"], &["namespace is being terminated"]]),
    row(
        Code::QuotaExceeded,
        &[
            &["exceeded quota:"],
            &["failed quota:"],
            &["insufficient quota"],
            &["status unknown for quota"],
            &["usage per container is"],
            &["usage per pod is"],
            &["usage per persistentvolumeclaim is"],
            &["limit to request ratio per"],
        ],
    ),
    row(Code::NamespaceMissing, &[&["namespaces \"", "not found"]]),
    row(
        Code::ConfigMissing,
        &[
            &["error looking up service account"],
            &["no priorityclass with name"],
            &["runtimeclass", "not found"],
            &["serviceaccount \"", "not found"],
        ],
    ),
    row(
        Code::Forbidden,
        &[
            &["is forbidden: user \""],
            &["cannot get resource"],
            &["cannot list resource"],
            &["cannot watch resource"],
            &["cannot create resource"],
            &["cannot update resource"],
            &["cannot patch resource"],
            &["cannot delete resource"],
            &["cannot get path"],
            &["attempting to grant rbac permissions"],
            &["must be logged in to the server"],
            &["asked for the client to provide credentials"],
            &["error: unauthorized"],
            &["failed: unauthorized"],
            &["unable to create", "unauthorized"],
            &["cannot set blockownerdeletion"],
        ],
    ),
    row(
        Code::ImmutableField,
        &[
            &["field is immutable"],
            &["is immutable after"],
            &["updates to statefulset spec for fields other than"],
            &["updates to daemonset spec for fields other than"],
            &["pod updates may not change fields other than"],
            &["may not change once set"],
            &["cannot change roleref"],
            &["updates to provisioner are forbidden"],
            &["updates to parameters are forbidden"],
            &["updates to reclaimpolicy are forbidden"],
            &["updates to volumebindingmode"],
            &["field can not be less than"],
            &["field can not be decremented"],
            &["may not be changed"],
            &["cannot be changed"],
            &["can not be changed"],
            &["primary clusterip can not be unset"],
            &["is immutable"],
        ],
    ),
    row(
        Code::CrdMissing,
        &[
            &["no matches for kind"],
            &["ensure crds are installed first"],
            &["resource mapping not found"],
            &["could not find the requested resource"],
            &["doesn't have a resource type"],
        ],
    ),
    // A node port or an address that another Service has.
    row(Code::NameInUse, &[&["provided port is already allocated"], &["provided ip is already allocated"]]),
    row(
        Code::ObjectInvalid,
        &[
            &["is invalid:"],
            &["unknown field"],
            &["cannot be handled as a"],
            &["cannot unmarshal"],
            &["strict decoding error"],
            &["unable to decode"],
            &["error validating"],
            &["validationerror("],
            &["unknown object type"],
            &["failed to create typed"],
            &["field not declared in schema"],
            &["duplicate entries for key"],
            &["error in our request"],
            &["does not match the namespace of the request"],
            &["does not match the expected"],
            &["object 'kind' is missing"],
            &["object 'apiversion' is missing"],
            &["invalid value"],
            &["must be specified"],
            &["resource name may not be empty"],
            &["unknown conversion"],
            &["illegal base64"],
            &["rejected our request"],
        ],
    ),
    row(
        Code::ApiUnreachable,
        &[
            &["etcdserver:"],
            &["currently unable to handle the request"],
            &["unable to return a response in the time allotted"],
            &["request did not complete within"],
            &["received too many requests"],
            &["too many requests"],
            &["apiserver is shutting down"],
            &["apiserver not ready"],
            &["storage is (re)initializing"],
            &["error on the server"],
            &["the server is not yet ready"],
            &["could not be completed at this time"],
            &["resource quota evaluat"],
            &["kine: "],
            &["database is locked"],
        ],
    ),
];

/// Codes that are the API server's own refusal: the cluster's state is not its cause.
pub(super) const REFUSALS: &[Code] = &[
    Code::ReleaseTooLarge,
    Code::WebhookDenied,
    Code::FieldConflict,
    Code::PodSecurity,
    Code::NamespaceTerminating,
    Code::QuotaExceeded,
    Code::NamespaceMissing,
    Code::ConfigMissing,
    Code::Forbidden,
    Code::ImmutableField,
    Code::CrdMissing,
    Code::ApiRemoved,
    Code::ObjectInvalid,
    Code::NameInUse,
];

/// Refusals of what the tree says: a retry gives the same answer. For the others, somebody else may
/// change the reason: a quota, a right, a CRD.
pub(super) const FINAL_REFUSALS: &[Code] = &[
    Code::ReleaseTooLarge,
    Code::WebhookDenied,
    Code::FieldConflict,
    Code::PodSecurity,
    Code::ImmutableField,
    Code::ObjectInvalid,
    Code::NameInUse,
];
