use crate::store::suite::{Place, run_everywhere};

run_everywhere!(Place::postgres());

mod behind_a_pooler {
    use crate::store::suite::{Place, run_everywhere};

    run_everywhere!(Place::postgres_behind_a_pooler());
}
