//! Reports gusts of gale force: Beaufort 8, 17.2 m/s and more (WMO).

use millrace_guest::{Failure, Outputs, Record};
use serde::{Deserialize, Serialize};

millrace_guest::handler!(gale);

#[derive(Deserialize)]
struct Observation<'a> {
    station: &'a str,
    time: &'a str,
    gust_m_s: Option<f64>,
}

#[derive(Serialize)]
struct Alert<'a> {
    station: &'a str,
    time: &'a str,
    gust_m_s: f64,
    beaufort: u8,
}

/// The lowest speeds of Beaufort 8 to 12, in m/s.
const GALES_M_S: [f64; 5] = [17.2, 20.8, 24.5, 28.5, 32.7];

fn gale(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    let value = record.value().ok_or_else(|| Failure::new("Observation.Empty", "no value"))?;
    let observation: Observation<'_> = serde_json::from_slice(value)
        .map_err(|error| Failure::new("Observation.Malformed", error.to_string()))?;
    let Some(gust_m_s) = observation.gust_m_s.filter(|gust| GALES_M_S[0] <= *gust) else {
        return Ok(());
    };
    let above = GALES_M_S.iter().filter(|lowest| **lowest <= gust_m_s).count();
    let alert = Alert {
        station: observation.station,
        time: observation.time,
        gust_m_s,
        beaufort: 7 + above as u8,
    };
    let bytes = serde_json::to_vec(&alert)
        .map_err(|error| Failure::new("Alert.Encode", error.to_string()))?;
    out.push(&bytes);
    Ok(())
}
