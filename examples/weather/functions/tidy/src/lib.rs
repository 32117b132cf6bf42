//! Checks every reading and converts it to SI units. What cannot be used fails by name.

use millrace_guest::{Failure, Outputs, Record};
use serde::{Deserialize, Serialize};

millrace_guest::handler!(tidy);

/// A reading as the station's archive has it: Fahrenheit, miles an hour, inches, millibars.
#[derive(Deserialize)]
struct Reading<'a> {
    time_hour: &'a str,
    origin: &'a str,
    temp: Option<f64>,
    humid: Option<f64>,
    wind_dir: Option<f64>,
    wind_speed: Option<f64>,
    wind_gust: Option<f64>,
    precip: Option<f64>,
    pressure: Option<f64>,
}

/// The same in SI units, rounded to what the instrument knows.
#[derive(Serialize)]
struct Observation<'a> {
    station: &'a str,
    time: &'a str,
    temperature_k: f64,
    humidity: Option<f64>,
    wind_from_deg: Option<f64>,
    wind_m_s: f64,
    gust_m_s: Option<f64>,
    rain_mm: Option<f64>,
    pressure_pa: Option<f64>,
}

/// The fastest wind ever measured at the ground: 113 m/s, Barrow Island 1996 (WMO).
const WIND_M_S_MAX: f64 = 113.0;
const M_S_PER_MPH: f64 = 0.447_04;

fn tidy(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    let value = record.value().ok_or_else(|| Failure::new("Reading.Empty", "no value"))?;
    let reading: Reading<'_> = serde_json::from_slice(value)
        .map_err(|error| Failure::new("Reading.Malformed", error.to_string()))?;
    let temperature = reading.temp.ok_or_else(|| missing("temp"))?;
    let wind_m_s = reading.wind_speed.ok_or_else(|| missing("wind_speed"))? * M_S_PER_MPH;
    let gust_m_s = reading.wind_gust.map(|mph| mph * M_S_PER_MPH);
    for wind in [Some(wind_m_s), gust_m_s].into_iter().flatten() {
        if !(0.0..=WIND_M_S_MAX).contains(&wind) {
            let message = format!("a wind of {:.0} m/s at {}", wind, reading.origin);
            return Err(Failure::new("Reading.Implausible", message));
        }
    }
    let observation = Observation {
        station: reading.origin,
        time: reading.time_hour,
        temperature_k: rounded((temperature - 32.0) / 1.8 + 273.15),
        humidity: reading.humid.map(|percent| rounded(percent / 100.0)),
        wind_from_deg: reading.wind_dir,
        wind_m_s: rounded(wind_m_s),
        gust_m_s: gust_m_s.map(rounded),
        rain_mm: reading.precip.map(|inches| rounded(inches * 25.4)),
        pressure_pa: reading.pressure.map(|millibars| rounded(millibars * 100.0)),
    };
    let bytes = serde_json::to_vec(&observation)
        .map_err(|error| Failure::new("Observation.Encode", error.to_string()))?;
    out.push(&bytes);
    Ok(())
}

fn missing(field: &str) -> Failure {
    Failure::new("Reading.Incomplete", format!("no {field}"))
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
