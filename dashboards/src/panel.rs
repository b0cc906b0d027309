//! One panel: what it shows, its query, and its JSON.

use serde_json::{Value, json};

use crate::board::data_source;
use crate::unit::Unit;

/// How a panel draws its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One row of figures, large.
    Stat,
    /// Lines over time.
    Lines,
    /// Lines over time, one on the other.
    Stacked,
    /// Counts over time and bucket; the series are named by the upper bound of their bucket.
    Heatmap,
    /// Rows as they are.
    Table,
}

impl Shape {
    /// The form in which Grafana wants the rows.
    #[must_use]
    pub const fn format(self) -> &'static str {
        match self {
            Self::Stat | Self::Table => "table",
            Self::Lines | Self::Stacked | Self::Heatmap => "time_series",
        }
    }

    const fn plugin(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Lines | Self::Stacked => "timeseries",
            Self::Heatmap => "heatmap",
            Self::Table => "table",
        }
    }
}

/// A column of a panel that is shown in a way of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    name: &'static str,
    unit: Option<Unit>,
    link: Option<&'static str>,
}

/// One panel of a dashboard.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Number, unique in its dashboard, and kept when panels come or go: links to a panel hold it.
    pub id: u32,
    /// What it is called.
    pub title: &'static str,
    /// What it shows and how to read it.
    pub description: &'static str,
    /// How it is drawn.
    pub shape: Shape,
    /// Unit of the figures that no column names.
    pub unit: Unit,
    /// Query, with Grafana's macros and variables.
    pub sql: String,
    /// Columns and rows of the grid that it takes.
    pub size: (u32, u32),
    columns: Vec<Column>,
    steps: Vec<(f64, &'static str)>,
    base: &'static str,
    max: Option<f64>,
}

impl Panel {
    /// A panel of that shape, in the size that is usual for it.
    #[must_use]
    pub fn new(
        id: u32,
        shape: Shape,
        unit: Unit,
        title: &'static str,
        description: &'static str,
        sql: impl Into<String>,
    ) -> Self {
        let size = match shape {
            Shape::Stat => (6, 4),
            Shape::Lines | Shape::Stacked => (12, 8),
            Shape::Heatmap => (24, 9),
            Shape::Table => (24, 8),
        };
        Self {
            id,
            title,
            description,
            shape,
            unit,
            sql: sql.into(),
            size,
            columns: Vec::new(),
            steps: Vec::new(),
            base: if matches!(shape, Shape::Stat) {
                "blue"
            } else {
                "green"
            },
            max: None,
        }
    }

    /// In another size: columns of 24, and rows.
    #[must_use]
    pub const fn size(mut self, width: u32, height: u32) -> Self {
        self.size = (width, height);
        self
    }

    /// Colours: `base` below the first bound, then each from its bound on.
    #[must_use]
    pub fn steps(mut self, base: &'static str, steps: &[(f64, &'static str)]) -> Self {
        self.base = base;
        self.steps = steps.to_vec();
        self
    }

    /// The axis ends there at the latest.
    #[must_use]
    pub const fn max(mut self, max: f64) -> Self {
        self.max = Some(max);
        self
    }

    /// The unit of some columns.
    #[must_use]
    pub fn columns(mut self, unit: Unit, names: &[&'static str]) -> Self {
        self.columns.extend(names.iter().map(|name| Column {
            name,
            unit: Some(unit),
            link: None,
        }));
        self
    }

    /// The values of a column lead to another dashboard; `url` begins with its path.
    #[must_use]
    pub fn link(mut self, column: &'static str, url: &'static str) -> Self {
        self.columns.push(Column {
            name: column,
            unit: None,
            link: Some(url),
        });
        self
    }

    /// The panel as Grafana reads it, at a place of the grid.
    pub(crate) fn json(&self, (x, y): (u32, u32)) -> Value {
        let (w, h) = self.size;
        let mut panel = json!({
            "id": self.id,
            "type": self.shape.plugin(),
            "title": self.title,
            "description": self.description,
            "gridPos": {"x": x, "y": y, "w": w, "h": h},
            "datasource": data_source(),
            "targets": [target(self.shape.format(), &self.sql)],
            "fieldConfig": {"defaults": self.defaults(), "overrides": self.overrides()},
            "options": self.options(),
        });
        if self.shape.format() == "time_series"
            && let Some(panel) = panel.as_object_mut()
        {
            // Roll-ups are by the minute.
            panel.insert("interval".to_owned(), json!("1m"));
        }
        panel
    }

    fn defaults(&self) -> Value {
        let mut steps = vec![json!({"color": self.base, "value": null})];
        let more = self.steps.iter();
        steps.extend(more.map(|(value, color)| json!({"color": color, "value": value})));
        let mut defaults = json!({
            "unit": self.unit.id(),
            "thresholds": {"mode": "absolute", "steps": steps},
            "noValue": "no data",
            "custom": self.custom(),
        });
        if let (Some(max), Some(defaults)) = (self.max, defaults.as_object_mut()) {
            defaults.insert("max".to_owned(), json!(max));
        }
        defaults
    }

    fn custom(&self) -> Value {
        match self.shape {
            Shape::Lines => json!({
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 0,
                "showPoints": "auto",
                "spanNulls": false,
                "thresholdsStyle": {"mode": if self.steps.is_empty() { "off" } else { "line" }},
            }),
            Shape::Stacked => json!({
                "drawStyle": "bars",
                "lineWidth": 1,
                "fillOpacity": 60,
                "stacking": {"mode": "normal", "group": "A"},
            }),
            Shape::Table => json!({"align": "auto", "filterable": true}),
            Shape::Stat | Shape::Heatmap => json!({}),
        }
    }

    fn overrides(&self) -> Value {
        let properties = |column: &Column| {
            let unit = column
                .unit
                .map(|unit| json!({"id": "unit", "value": unit.id()}));
            let link = column
                .link
                .map(|url| json!({"id": "links", "value": [{"title": "Open", "url": url}]}));
            unit.into_iter().chain(link).collect::<Vec<_>>()
        };
        let overrides = self.columns.iter().map(|column| {
            json!({
                "matcher": {"id": "byName", "options": column.name},
                "properties": properties(column),
            })
        });
        Value::Array(overrides.collect())
    }

    fn options(&self) -> Value {
        match self.shape {
            Shape::Stat => json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "/.*/", "values": false},
                "colorMode": if self.steps.is_empty() { "none" } else { "value" },
                "graphMode": "none",
                "justifyMode": "auto",
                "orientation": "auto",
                "textMode": "auto",
            }),
            Shape::Lines | Shape::Stacked => json!({
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Shape::Heatmap => json!({
                "calculate": false,
                "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
                "rowsFrame": {"layout": "le"},
                "yAxis": {"unit": self.unit.id(), "axisPlacement": "left", "reverse": false},
                "tooltip": {"mode": "single", "showColorScale": true, "yHistogram": false},
                "legend": {"show": true},
            }),
            Shape::Table => json!({"showHeader": true, "cellHeight": "sm"}),
        }
    }
}

/// A query as the PostgreSQL data source wants it: without `rawQuery` and `editorMode` its text may be
/// ignored.
pub(crate) fn target(format: &str, sql: &str) -> Value {
    json!({
        "refId": "A",
        "datasource": data_source(),
        "editorMode": "code",
        "format": format,
        "rawQuery": true,
        "rawSql": sql.trim(),
    })
}
