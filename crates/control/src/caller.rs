//! Who asks, and what they may do. A use case takes a [`Permit`], and only [`Caller::may`] makes one: a check that
//! was forgotten does not compile.
//!
//! Never looks up a key: `keys` does, and hands out the caller.

use crate::ControlError;
use berth_domain::TenantId;
use berth_store::Scope;
use std::marker::PhantomData;

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key's name; in the audit trail.
    pub name: String,
    pub scope: Scope,
    pub request_id: Option<String>,
}

/// A kind of thing that callers do.
pub trait Action: Copy + 'static {
    /// For the message to whoever may not.
    const WHAT: &'static str;
    fn allowed(scope: Scope) -> bool;
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident: $what:literal => $allowed:pat,)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl Action for $name {
            const WHAT: &'static str = $what;
            fn allowed(scope: Scope) -> bool {
                matches!(scope, $allowed)
            }
        }
    )+};
}

actions! {
    /// Seeing everything.
    Read: "read this" => Scope::Admin | Scope::Read,
    /// Seeing one tenant. A tenant's own key sees that tenant, and the others as if they did not exist.
    ReadTenant: "read this" => Scope::Admin | Scope::Read | Scope::Tenant(_),
    /// Seeing what a tenant may have.
    ReadEntitlements: "read this" => Scope::Admin | Scope::Read | Scope::Usage | Scope::Tenant(_),
    /// Saying what was used.
    Report: "report usage" => Scope::Admin | Scope::Usage,
    /// Changing anything.
    Change: "change this" => Scope::Admin,
    /// Following routes and acknowledging them.
    Follow: "follow routes" => Scope::Admin | Scope::Edge,
}

/// That a caller may do something of kind `A`.
#[derive(Clone, Debug)]
pub struct Permit<A> {
    caller: Caller,
    action: PhantomData<A>,
}

impl Caller {
    /// Berth itself: reconcilers, and the program that starts a server.
    pub fn berth() -> Self {
        Self { name: "berth".to_owned(), scope: Scope::Admin, request_id: None }
    }

    pub fn may<A: Action>(&self, _action: A) -> Result<Permit<A>, ControlError> {
        if A::allowed(self.scope) {
            Ok(Permit { caller: self.clone(), action: PhantomData })
        } else {
            Err(ControlError::Forbidden { what: A::WHAT, scope: self.scope })
        }
    }
}

impl<A> Permit<A> {
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
    /// Whether this tenant exists for the caller.
    pub(crate) fn sees(&self, tenant: TenantId) -> bool {
        !matches!(self.caller.scope, Scope::Tenant(own) if own != tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::{Caller, Change, Follow, Read, ReadEntitlements, ReadTenant, Report};
    use berth_domain::TenantId;
    use berth_store::Scope;

    #[test]
    fn each_scope_may_do_what_it_is_for_and_no_more() {
        let own = TenantId::new(uuid::Uuid::from_u128(1));
        let may = |scope| {
            let caller = Caller { name: "k".into(), scope, request_id: None };
            [
                caller.may(Read).is_ok(),
                caller.may(ReadTenant).is_ok(),
                caller.may(Change).is_ok(),
                caller.may(Follow).is_ok(),
                caller.may(ReadEntitlements).is_ok(),
                caller.may(Report).is_ok(),
            ]
        };
        assert_eq!(may(Scope::Admin), [true; 6]);
        assert_eq!(may(Scope::Read), [true, true, false, false, true, false]);
        assert_eq!(may(Scope::Tenant(own)), [false, true, false, false, true, false]);
        assert_eq!(may(Scope::Edge), [false, false, false, true, false, false]);
        assert_eq!(may(Scope::Usage), [false, false, false, false, true, true]);
    }

    #[test]
    fn a_tenants_key_sees_no_other_tenant() {
        let (own, other) = (TenantId::new(uuid::Uuid::from_u128(1)), TenantId::new(uuid::Uuid::from_u128(2)));
        let caller = Caller { name: "k".into(), scope: Scope::Tenant(own), request_id: None };
        let permit = caller.may(ReadTenant).unwrap();
        assert!(permit.sees(own) && !permit.sees(other));
    }
}
