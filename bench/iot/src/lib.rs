//! The filter and enrichment that is measured: one reading of a device in, none or one with a
//! field more out. The same code is compiled natively into the passthrough and to the component.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Readings of air as wet as this or wetter are dropped: of humidities that are evenly spread over
/// 0 to 100 %, 68 % stay.
pub const HUMIDITY_MAX: f64 = 68.0;

/// A reading, every field by its type.
#[derive(Debug, Serialize, Deserialize)]
struct Reading<'a> {
    #[serde(borrow)]
    device: Cow<'a, str>,
    #[serde(borrow)]
    site: Cow<'a, str>,
    seq: u64,
    at: i64,
    celsius: f64,
    humidity: f64,
    hectopascal: f64,
    volt: f64,
    rssi: i32,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    firmware: Cow<'a, str>,
    #[serde(borrow)]
    note: Cow<'a, str>,
    /// What is added: the dew point in degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none")]
    dew: Option<f64>,
}

/// Puts the enriched reading into `enriched`, emptied before; false when it is dropped.
///
/// # Errors
///
/// When it is not a reading.
pub fn enrich(reading: &[u8], enriched: &mut Vec<u8>) -> Result<bool, serde_json::Error> {
    let mut reading: Reading<'_> = serde_json::from_slice(reading)?;
    enriched.clear();
    if HUMIDITY_MAX <= reading.humidity {
        return Ok(false);
    }
    // The rule of thumb; within a degree above 50 %.
    let dew = reading.celsius - (100.0 - reading.humidity) / 5.0;
    reading.dew = Some((dew * 100.0).round() / 100.0);
    serde_json::to_writer(enriched, &reading)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(humidity: f64) -> String {
        format!(
            r#"{{"device":"dev-000001","site":"plant-7","seq":1,"at":2,"celsius":20.5,"humidity":{humidity},"hectopascal":1013.2,"volt":3.7,"rssi":-70,"status":"ok","firmware":"2.4.1","note":""}}"#
        )
    }

    #[test]
    fn a_dry_reading_gains_its_dew_point_and_a_wet_one_is_dropped() {
        let mut enriched = Vec::new();
        assert!(enrich(reading(50.0).as_bytes(), &mut enriched).unwrap());
        let text = String::from_utf8(enriched.clone()).unwrap();
        assert!(text.ends_with(r#","note":"","dew":10.5}"#), "{text}");
        assert!(!enrich(reading(68.0).as_bytes(), &mut enriched).unwrap());
        assert!(enriched.is_empty());
        assert!(enrich(b"{}", &mut enriched).is_err());
    }
}
