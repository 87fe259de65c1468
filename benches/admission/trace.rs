//! Requests, the same in every run.

const OBJECTS: u64 = 60_000;
const REQUESTS: usize = 600_000;
const EXPONENT: f64 = 0.9;
const SCAN_EVERY: usize = 40_000;
const SCAN_LENGTH: u64 = 15_000;
const SHIFTS: u64 = 4;
const KIB: f64 = 1024.0;

#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub object: u64,
    /// Of its body.
    pub bytes: u64,
}

impl Request {
    /// From 1 KiB to 1 MiB, and the larger the rarer: a size is as likely as its square root is
    /// small.
    fn of(object: u64) -> Self {
        let uniform = (mix(object) >> 11) as f64 / (1_u64 << 53) as f64;
        let bytes = (KIB / (1.0 - uniform * (1.0 - 1.0 / 1024.0))) as u64;
        Self { object, bytes }
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Trace {
    Zipf,
    OneHit,
    Scan,
    Shift,
}

impl Trace {
    pub const ALL: [Self; 4] = [Self::Zipf, Self::OneHit, Self::Scan, Self::Shift];

    pub fn name(self) -> &'static str {
        match self {
            Self::Zipf => "zipf",
            Self::OneHit => "one-hit",
            Self::Scan => "scan",
            Self::Shift => "shift",
        }
    }

    pub fn requests(self) -> Vec<Request> {
        let mut random = Random(7);
        let zipf = Zipf::new();
        let mut once = OBJECTS;
        let mut all = Vec::with_capacity(2 * REQUESTS);
        for number in 0..REQUESTS {
            let rank = zipf.draw(&mut random);
            let turn = match self {
                Self::Shift => number as u64 * SHIFTS / REQUESTS as u64,
                _ => 0,
            };
            // Ranks are no numbers: neighbours in a scan are not alike popular.
            let object = (rank + turn * OBJECTS / SHIFTS) * 7_919 % OBJECTS;
            all.push(Request::of(object));
            match self {
                Self::OneHit => {
                    all.push(Request::of(once));
                    once += 1;
                }
                Self::Scan if number % SCAN_EVERY == SCAN_EVERY - 1 => {
                    let first = random.below(OBJECTS);
                    let crawled = (first..first + SCAN_LENGTH).map(|it| it % OBJECTS);
                    all.extend(crawled.map(Request::of));
                }
                _ => {}
            }
        }
        all
    }
}

/// Draws ranks by Zipf's law, by searching in the sums of their shares.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new() -> Self {
        let mut sum = 0.0;
        let shares = (1..=OBJECTS).map(|rank| {
            sum += (rank as f64).powf(-EXPONENT);
            sum
        });
        Self(shares.collect())
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let whole = self.0.last().copied().unwrap_or_default();
        let at = random.unit() * whole;
        self.0.partition_point(|sum| *sum < at) as u64
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
