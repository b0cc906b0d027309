//! Figures of a recorded shop: who calls what, how often, and how long it takes.

/// One edge of the call graph.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) source: &'static str,
    pub(super) destination: &'static str,
    pub(super) endpoint: &'static str,
    /// Share of all calls, in percent.
    pub(super) share: f64,
    /// Server time in microseconds: quantiles.
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
}

/// Calls in a trace: (share of traces, at most so many calls).
pub(super) const LENGTH: [(f64, f64); 5] = [
    (0.0, 7.0),
    (0.5, 12.0),
    (0.9, 16.0),
    (0.99, 21.0),
    (1.0, 24.0),
];

/// No trace has more calls.
pub(super) const CALLS_MAX: usize = 24;

const fn edge(
    source: &'static str,
    destination: &'static str,
    endpoint: &'static str,
    share: f64,
    [p50, p90, p99]: [f64; 3],
) -> Figure {
    Figure {
        source,
        destination,
        endpoint,
        share,
        p50,
        p90,
        p99,
    }
}

const FRONT: &str = "frontend";
const RECOMMEND: &str = "recommendationservice";
const CATALOG: &str = "productcatalogservice";
const CURRENCY: &str = "currencyservice";
const CART: &str = "cartservice";
const SHIPPING: &str = "shippingservice";
const CHECKOUT: &str = "checkoutservice";
const PAYMENT: &str = "paymentservice";
const EMAIL: &str = "emailservice";
const ADS: &str = "adservice";

const GET_PRODUCT: &str = "hipstershop.ProductCatalogService/GetProduct";
const LIST_PRODUCTS: &str = "hipstershop.ProductCatalogService/ListProducts";
const CONVERT: &str = "grpc.hipstershop.CurrencyService/Convert";
const CURRENCIES: &str = "grpc.hipstershop.CurrencyService/GetSupportedCurrencies";
const GET_CART: &str = "hipstershop.CartService/GetCart";
const ADD_ITEM: &str = "hipstershop.CartService/AddItem";
const EMPTY_CART: &str = "hipstershop.CartService/EmptyCart";
const LIST_RECOMMENDATIONS: &str = "/hipstershop.RecommendationService/ListRecommendations";
const GET_ADS: &str = "hipstershop.AdService/GetAds";
const GET_QUOTE: &str = "hipstershop.ShippingService/GetQuote";
const SHIP_ORDER: &str = "hipstershop.ShippingService/ShipOrder";
const PLACE_ORDER: &str = "hipstershop.CheckoutService/PlaceOrder";
const CHARGE: &str = "grpc.hipstershop.PaymentService/Charge";
const CONFIRM: &str = "/hipstershop.EmailService/SendOrderConfirmation";

/// The call graph. Calls inside another stand in the order in which they are made.
pub(super) const FIGURES: [Figure; 18] = [
    edge(
        FRONT,
        CATALOG,
        GET_PRODUCT,
        40.81,
        [2_721.0, 8_720.0, 86_673.0],
    ),
    edge(
        FRONT,
        CURRENCY,
        CONVERT,
        19.44,
        [1_070.0, 1_986.0, 85_169.0],
    ),
    edge(FRONT, CURRENCY, CURRENCIES, 7.48, [270.0, 370.0, 1_723.0]),
    edge(FRONT, CART, GET_CART, 7.17, [1_369.0, 1_894.0, 10_750.0]),
    edge(
        FRONT,
        RECOMMEND,
        LIST_RECOMMENDATIONS,
        6.43,
        [6_422.0, 101_737.0, 2_501_209.0],
    ),
    edge(
        RECOMMEND,
        CATALOG,
        LIST_PRODUCTS,
        6.43,
        [3_377.0, 12_894.0, 305_896.0],
    ),
    edge(FRONT, ADS, GET_ADS, 5.15, [12_369.0, 39_172.0, 608_671.0]),
    edge(FRONT, SHIPPING, GET_QUOTE, 1.96, [422.0, 666.0, 521_977.0]),
    edge(
        FRONT,
        CATALOG,
        LIST_PRODUCTS,
        1.05,
        [3_397.0, 11_990.0, 303_433.0],
    ),
    edge(FRONT, CART, ADD_ITEM, 0.95, [2_249.0, 3_149.0, 95_489.0]),
    edge(
        FRONT,
        CHECKOUT,
        PLACE_ORDER,
        0.34,
        [220_244.0, 1_089_380.0, 3_352_147.0],
    ),
    edge(CHECKOUT, CART, GET_CART, 0.34, [1_396.0, 1_890.0, 6_050.0]),
    edge(
        CHECKOUT,
        CATALOG,
        GET_PRODUCT,
        0.8,
        [2_732.0, 8_413.0, 75_916.0],
    ),
    edge(
        CHECKOUT,
        SHIPPING,
        GET_QUOTE,
        0.33,
        [413.0, 616.0, 569_755.0],
    ),
    edge(CHECKOUT, PAYMENT, CHARGE, 0.33, [274.0, 378.0, 1_369.0]),
    edge(CHECKOUT, SHIPPING, SHIP_ORDER, 0.33, [161.0, 224.0, 950.0]),
    edge(
        CHECKOUT,
        CART,
        EMPTY_CART,
        0.33,
        [1_373.0, 1_860.0, 5_719.0],
    ),
    edge(CHECKOUT, EMAIL, CONFIRM, 0.33, [485.0, 611.0, 1_153.0]),
];
