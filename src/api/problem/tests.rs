use super::*;
use crate::ledger::LedgerError;
use std::collections::BTreeSet;

#[test]
fn every_type_is_listed_once_and_documented_with_its_status() {
    let page = include_str!("../../../docs/api.md");
    let addresses: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.address()).collect();
    assert_eq!(addresses.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        let row = format!("| `{}` | {} |", kind.parts().1, kind.status().as_u16());
        assert!(page.contains(&row), "docs/api.md lacks {row}");
    }
}

#[test]
fn nothing_internal_is_told() {
    let error = ServiceError::Ledger(LedgerError::Internal("relation \"segment\" at 10.0.0.7".into()));
    let problem = Problem::from(error);
    assert_eq!(problem.kind, Kind::Unavailable);
    assert!(!problem.body().to_string().contains("relation"));
    let response = problem.into_response();
    assert_eq!(response.headers()[header::RETRY_AFTER], "10");
    assert!(response.extensions().get::<Cause>().unwrap().0.contains("relation"));
}
