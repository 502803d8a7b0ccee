//! What a metric is, and how to read it.

use std::time::Duration;

use fairpool::stats::{Distribution, Distributions, DriverCount, Reading};

/// A metric with one value per pool, or one per pool and label.
#[derive(Debug)]
pub struct Family {
    /// The name, with dots.
    pub name: &'static str,
    /// What it measures, in a few words.
    pub help: &'static str,
    /// How the values may be combined.
    pub kind: Kind,
    /// The unit of the values.
    pub unit: Unit,
    pub(crate) values: Values,
}

/// How to read one value.
pub(crate) type Read = fn(&Reading) -> Value;

#[derive(Debug)]
pub(crate) enum Values {
    One(Read),
    /// By this attribute, which has these labels.
    By(&'static str, &'static [(&'static str, Read)]),
    /// By this attribute, whose labels are the names that the driver gives to what it counts.
    OfDriver(&'static str),
}

impl Family {
    /// All values of this metric in a pool's reading.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use fairpool_metrics::{FAMILIES, Value};
    ///
    /// let pool = fairpool::Pool::builder().max_size(3).build(StubManager)?;
    /// let count = &FAMILIES[0];
    /// assert_eq!(count.name, "db.client.connection.count");
    /// let idle = count.samples(&pool.reading())[0];
    /// assert_eq!(idle.attribute, Some(("db.client.connection.state", "idle")));
    /// assert_eq!(idle.value, Value::Count(3));
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn samples(&self, reading: &Reading) -> Vec<Sample> {
        match self.values {
            Values::One(read) => vec![Sample { attribute: None, value: read(reading) }],
            Values::By(key, labels) => {
                let sample = |(label, read): &(&'static str, Read)| Sample {
                    attribute: Some((key, *label)),
                    value: read(reading),
                };
                labels.iter().map(sample).collect()
            }
            Values::OfDriver(key) => {
                let sample = |count: &DriverCount| Sample {
                    attribute: Some((key, count.name)),
                    value: count.total.into(),
                };
                reading.stats.driver.iter().map(sample).collect()
            }
        }
    }
}

/// One value of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The attribute and label that the value belongs to, if the metric has several values.
    pub attribute: Option<(&'static str, &'static str)>,
    /// The value.
    pub value: Value,
}

/// How the values of a metric may be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A total that only grows, for as long as the pool exists.
    Counter,
    /// An amount at this instant; amounts of several pools can be added up.
    UpDown,
    /// A level at this instant; to add up those of several pools makes no sense.
    Gauge,
}

/// The unit of a metric's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of these, in the notation of UCUM: `{connection}`.
    Count(&'static str),
    /// Seconds.
    Seconds,
}

impl Unit {
    /// The unit in the notation of [UCUM](https://ucum.org): `s`, `{connection}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Count(unit) => unit,
            Unit::Seconds => "s",
        }
    }
}

/// The value of a sample: a count if the metric's unit is [`Unit::Count`], a duration if
/// it is [`Unit::Seconds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// A time.
    Duration(Duration),
}

impl Value {
    /// The number, or the seconds.
    pub fn as_f64(self) -> f64 {
        match self {
            Value::Count(number) => number as f64,
            Value::Duration(time) => time.as_secs_f64(),
        }
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Count(number.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Count(number)
    }
}

impl From<Duration> for Value {
    fn from(time: Duration) -> Value {
        Value::Duration(time)
    }
}

/// A metric whose values are distributions of times, in seconds.
#[derive(Debug)]
pub struct HistogramFamily {
    /// The name, with dots.
    pub name: &'static str,
    /// What it measures, in a few words.
    pub help: &'static str,
    pub(crate) select: fn(&Distributions) -> &Distribution,
}

impl HistogramFamily {
    /// The distribution in a pool's reading, of all times since the pool was built.
    /// [`Distribution::since`] gives those since an earlier reading.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use fairpool_metrics::{BUCKET_BOUNDS, HISTOGRAMS};
    ///
    /// let pool = fairpool::Pool::builder().max_size(3).build(StubManager)?;
    /// let create_time = &HISTOGRAMS[0];
    /// assert_eq!(create_time.name, "db.client.connection.create_time");
    /// let reading = pool.reading();
    /// let times = create_time.distribution(&reading);
    /// assert_eq!(times.count(), 3);
    /// assert_eq!(times.cumulative_counts(&BUCKET_BOUNDS).last(), Some(&3));
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn distribution<'a>(&self, reading: &'a Reading) -> &'a Distribution {
        self.select(&reading.times)
    }

    /// The same, of distributions that were kept from an earlier reading.
    pub fn select<'a>(&self, times: &'a Distributions) -> &'a Distribution {
        (self.select)(times)
    }
}
