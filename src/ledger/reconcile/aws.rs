//! Amazon Bedrock in Amazon's exports.
//!
//! *Sources*: <https://docs.aws.amazon.com/bedrock/latest/userguide/cost-mgmt-understanding-cur-data.html> (each kind of tokens is
//! a line item; usage types end in `-input-tokens`, `-output-tokens`, `-cache-read-input-token-count`,
//! `-cache-write-input-token-count`, perhaps followed by the tier or `-cross-region…`, as in
//! `USW2-Claude4.5Sonnet-input-tokens`); the columns of the Cost and Usage Report,
//! <https://docs.aws.amazon.com/cur/latest/userguide/table-dictionary-cur2-line-item.html> (`line_item_usage_type`, …) and its
//! first generation (`lineItem/UsageType`, …). Amounts count thousands of tokens, unless `pricing_unit` says otherwise. A Cost
//! Explorer export grouped by usage type has a row for each day and a column for each type, in dollars, without tokens.

use super::row::{DAY, Export, ExportRow, HOUR, count, money, span, time};
use super::table::{self, Cells};
use crate::unit::usage::Usage;

const TYPE: &[&str] = &["line_item_usage_type", "lineitem/usagetype", "usage type", "usagetype"];
const START: &[&str] =
    &["line_item_usage_start_date", "lineitem/usagestartdate", "start", "startdate", "usage start date", "date"];
const END: &[&str] = &["line_item_usage_end_date", "lineitem/usageenddate"];
const AMOUNT: &[&str] = &["line_item_usage_amount", "lineitem/usageamount", "usage amount", "usagequantity"];
const COST: &[&str] = &["line_item_unblended_cost", "lineitem/unblendedcost", "unblendedcost", "cost", "cost ($)"];
const PRODUCT: &[&str] = &["line_item_product_code", "lineitem/productcode"];
const CURRENCY: &[&str] = &["line_item_currency_code", "lineitem/currencycode"];
const UNIT: &[&str] = &["pricing_unit", "pricing/unit"];
const ACCOUNT: &[&str] = &["line_item_iam_principal", "line_item_usage_account_id", "lineitem/usageaccountid"];

/// How usage types end, and the class that they count; the longer ones first, since one is a part of another.
const CLASSES: [(&str, Class); 8] = [
    ("-cache-read-input-token-count", Class::CacheRead),
    ("-cache-write-1h-input-token-count", Class::CacheWrite1h),
    ("-cache-write-input-token-count", Class::CacheWrite),
    ("-cachereadinputtokencount", Class::CacheRead),
    ("-cachewriteinputtokencount", Class::CacheWrite),
    ("-mantle-input-tokens", Class::Input),
    ("-input-tokens", Class::Input),
    ("-output-tokens", Class::Output),
];

#[derive(Clone, Copy)]
enum Class {
    Input,
    CacheRead,
    CacheWrite,
    CacheWrite1h,
    Output,
}

/// Reads a Cost and Usage Report or a Cost Explorer export in rows.
pub(super) fn csv(bytes: &[u8]) -> Result<Export, String> {
    let headings: [&[&str]; 5] = [
        &["line_item_usage_type", "line_item_usage_start_date"],
        &["lineitem/usagetype", "lineitem/usagestartdate"],
        &["usage type", "start", "cost"],
        &["usage type", "date", "cost ($)"],
        &["usagetype", "startdate", "cost"],
    ];
    table::read(bytes, &headings, row)
}

fn row(cells: &Cells<'_>) -> Result<Option<ExportRow>, String> {
    if cells.get(PRODUCT).is_some_and(|product| !product.starts_with("AmazonBedrock")) {
        return Ok(None);
    }
    let kind = cells.need(TYPE)?;
    let lower = kind.to_lowercase();
    let Some((at, class)) = CLASSES.iter().find_map(|(words, class)| lower.find(words).map(|at| (at, *class))) else {
        return Ok(None);
    };
    if cells.get(CURRENCY).is_some_and(|currency| currency != "USD") {
        return Err("its currency is not USD".to_owned());
    }
    let from = time(cells.need(START)?)?;
    let until = cells.get(END).map(time).transpose()?;
    // A report by the hour ends its rows after one, by the day after one; what does not say is about a day.
    let until = until.filter(|until| *until > from).unwrap_or(span(from, DAY).1);
    let until = if until.micros() - from.micros() < HOUR { span(from, HOUR).1 } else { until };
    let tokens = cells.get(AMOUNT).map(|text| count(text, scale(cells.get(UNIT)))).transpose()?;
    // `USW2-Claude4.5Sonnet`: what stands before the model is the region.
    let name = kind.get(..at).unwrap_or(kind);
    let model = name.split_once('-').map_or(name, |(_, model)| model);
    Ok(Some(ExportRow {
        from,
        until,
        model: Some(model.to_owned()),
        credential: cells.get(ACCOUNT).map(str::to_owned),
        usage: tokens.map(|tokens| class.usage(tokens)),
        images: None,
        requests: None,
        cost: Some(money(cells.need(COST)?, 1.0)?),
    }))
}

/// How many tokens one of the amount is.
fn scale(unit: Option<&str>) -> f64 {
    let unit = unit.map(str::to_lowercase).unwrap_or_default();
    if unit.starts_with("1m") || unit.contains("million") {
        1e6
    } else if unit == "tokens" || unit == "token" || unit == "count" {
        1.0
    } else {
        1e3
    }
}

impl Class {
    fn usage(self, tokens: u64) -> Usage {
        let none = Usage::default();
        match self {
            Self::Input => Usage { input: tokens, ..none },
            Self::CacheRead => Usage { cache_read: tokens, ..none },
            Self::CacheWrite => Usage { cache_write_5m: tokens, ..none },
            Self::CacheWrite1h => Usage { cache_write_1h: tokens, ..none },
            Self::Output => Usage { output: tokens, ..none },
        }
    }
}
