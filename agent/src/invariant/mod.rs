//! What must hold for any input whatever: one function an input, which panics if it does not. Fuzz targets
//! (`cargo xtask fuzz`) call them with what coverage leads them to, unit tests with the seeds in `fuzz/seeds`.

pub mod btf;
pub mod dns_answer;
pub mod dns_query;
pub mod event;
pub mod mountinfo;
pub mod policy;
mod reference;
pub mod rules;
pub mod scope;
pub mod sockets;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    fn replay(target: &str, check: fn(&[u8])) {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
        let mut count = 0;
        for entry in fs::read_dir(&seeds).unwrap() {
            check(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "no seeds in {}", seeds.display());
    }

    #[test]
    fn policy_seeds() {
        replay("policy", super::policy::check);
    }

    #[test]
    fn rules_seeds() {
        replay("rules", super::rules::check);
    }

    #[test]
    fn btf_seeds() {
        replay("btf", super::btf::check);
    }

    #[test]
    fn event_seeds() {
        replay("event", super::event::check);
    }

    #[test]
    fn scope_seeds() {
        replay("scope", super::scope::check);
    }

    #[test]
    fn dns_seeds() {
        replay("dns_query", super::dns_query::check);
        replay("dns_answer", super::dns_answer::check);
    }

    #[test]
    fn sockets_seeds() {
        replay("sockets", super::sockets::check);
    }

    #[test]
    fn mountinfo_seeds() {
        replay("mountinfo", super::mountinfo::check);
    }
}
