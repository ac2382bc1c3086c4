//! What every backend must do, as tests that run on each of them.
//!
//! Each test is a function over a [`Place`], an empty database that can be opened several times; `run_everywhere!` in a
//! backend's own tests makes tests of all of them.

#![allow(missing_docs, reason = "the names of tests are sentences")]

pub mod keys;
pub mod ledger;
pub mod memory;
pub mod reprice;
pub mod spend;

use std::sync::Arc;

use tempfile::TempDir;

use crate::store::{Address, Backend, open, testing};

/// An empty database.
pub struct Place {
    pub address: Address,
    pub folder: TempDir,
    make: fn() -> Place,
}

impl Place {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { address: Address::sqlite(folder.path().join("marg.db")), folder, make: Self::sqlite }
    }

    pub fn postgres() -> Self {
        Self { address: testing::database(), folder: tempfile::tempdir().unwrap(), make: Self::postgres }
    }

    pub fn postgres_behind_a_pooler() -> Self {
        let address = testing::pooled_database();
        Self { address, folder: tempfile::tempdir().unwrap(), make: Self::postgres_behind_a_pooler }
    }

    /// Another one of the same kind.
    pub fn fresh(&self) -> Self {
        (self.make)()
    }

    /// Opens it, as one process would.
    pub async fn open(&self) -> Arc<dyn Backend> {
        open(&self.address).await.unwrap().0
    }
}

macro_rules! run_everywhere {
    ($place:expr) => {
        #[test]
        fn a_whole_record_survives_the_database() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            $crate::store::suite::ledger::a_whole_record_survives_the_database(&runtime, &$place, 12);
        }

        $crate::store::suite::run_everywhere! { $place;
            keys::a_duplicate_or_missing_key_is_refused_and_moves_no_generation,
            keys::each_write_is_seen_by_another_process_through_the_generation,
            keys::a_running_ring_follows_what_the_command_line_writes,
            keys::a_ring_that_reads_changes_is_like_one_that_reads_all,
            keys::changes_are_told_from_any_generation_on_and_not_from_one_of_another_database,
            keys::an_old_copy_undoes_neither_a_revocation_nor_a_rotation,
            keys::filters_find_keys_by_every_field,
            keys::pages_of_keys_neither_repeat_nor_skip_while_keys_come_and_go,
            keys::admin_tokens_are_found_by_hash_and_stay_revoked,
            keys::routes_keep_their_order_through_inserts_deletes_and_reorders,
            keys::a_closed_store_is_away,
            ledger::a_count_beyond_the_range_is_stored_as_its_end,
            ledger::a_batch_from_the_wrong_position_changes_nothing,
            ledger::a_record_that_is_there_is_not_stored_again,
            ledger::an_amendment_sets_usage_and_cost_and_nothing_else,
            ledger::every_filter_finds_what_it_names_and_nothing_else,
            ledger::sums_count_errors_tokens_and_cost,
            ledger::pages_neither_repeat_nor_miss_a_record_while_others_arrive,
            ledger::a_follower_sees_a_long_exchange_that_started_before_what_it_has_seen,
            ledger::numbers_of_deleted_records_are_never_given_again,
            ledger::retention_deletes_the_oldest_first_and_at_most_as_many_as_asked,
            ledger::a_batch_of_any_size_goes_in_whole,
            ledger::journal_feeder_and_database_together_store_each_record_once,
            memory::what_is_remembered_is_found_again_and_what_is_over_is_forgotten,
            memory::an_operators_word_moves_the_generation_and_a_count_does_not,
            memory::changes_of_the_same_rows_do_not_cross,
            spend::limits_of_every_kind_come_back_as_they_were_and_each_write_is_noticed,
            spend::a_limit_that_is_there_or_is_not_is_refused_and_nothing_moves,
            spend::parties_of_each_kind_are_kept_apart_and_each_write_is_noticed,
            spend::a_party_that_is_there_or_is_not_is_refused_and_nothing_moves,
            spend::a_price_for_the_same_model_and_day_replaces_the_one_before,
            spend::prices_are_stored_all_or_none,
            reprice::a_corrected_price_gives_a_user_the_money_back,
            reprice::windows_that_are_over_are_not_moved,
            reprice::counters_move_once_although_the_authority_was_away,
            reprice::a_row_that_changed_in_the_meantime_is_left_alone,
            reprice::what_has_no_price_now_keeps_its_cost,
        }
    };
    ($place:expr; $($module:ident::$name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::store::suite::$module::$name(&$place).await;
            }
        )*
    };
}

pub(crate) use run_everywhere;
